use super::*;
use crate::testing::{assert_close, assert_thread_independent, narrow, noise, slope, widen};
use proptest::prelude::*;

/// The definition, head by head and number by number.
fn reference(shape: Attention, [q, k, v]: [&[f64]; 3], mask: Option<Mask<'_, f64>>) -> Vec<f64> {
    let Attention {
        batch,
        heads,
        key_heads,
        queries,
        keys,
        width,
        scale,
        causal,
    } = shape;
    let mut y = vec![0.0; q.len()];
    for (b, h, i) in (0..batch * heads * queries)
        .map(|at| (at / queries / heads, at / queries % heads, at % queries))
    {
        let query = &q[((b * queries + i) * heads + h) * width..][..width];
        let row = |x: &[f64], j: usize| {
            let start = ((b * keys + j) * key_heads + h / (heads / key_heads)) * width;
            x[start..start + width].to_vec()
        };
        let seen = if causal { i + 1 + keys - queries } else { keys };
        let score = |j: usize| {
            let dot: f64 = query.iter().zip(row(k, j)).map(|(q, k)| q * k).sum();
            let mask = mask.map_or(0.0, |Mask { values, shape }| {
                let at = |axis: usize, index: usize| index.min(shape[axis] - 1);
                values[((at(0, b) * shape[1] + at(1, h)) * shape[2] + at(2, i)) * keys + j]
            });
            dot * scale + mask
        };
        let scores: Vec<f64> = (0..seen).map(score).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
        for (j, s) in scores.iter().enumerate() {
            for (c, v) in row(v, j).iter().enumerate() {
                y[((b * queries + i) * heads + h) * width + c] += (s - largest).exp() / total * v;
            }
        }
    }
    y
}

fn forward_of<T: Real>(
    shape: Attention,
    inputs: [&[T]; 3],
    mask: Option<Mask<'_, T>>,
) -> (Vec<T>, RowStatistics<T>) {
    let mut y = vec![T::ZERO; inputs[0].len()];
    let statistics = shape.forward(inputs, mask, &mut y);
    (y, statistics)
}

fn gradients_of<T: Real>(
    shape: Attention,
    inputs: [&[T]; 3],
    mask: Option<Mask<'_, T>>,
    gy: &[T],
) -> [Vec<T>; 3] {
    let (_, statistics) = forward_of(shape, inputs, mask);
    let [mut gq, mut gk, mut gv] = inputs.map(|x| vec![T::ONE; x.len()]);
    shape.backward(inputs, mask, &statistics, gy, [&mut gq, &mut gk, &mut gv]);
    [gq, gk, gv]
}

/// Queries, keys and values, and a mask with its shape.
type Case = ([Vec<f64>; 3], Option<(Vec<f64>, [usize; 4])>);

/// A shape with its queries, keys and values, and a mask that some rows share.
fn case(shape: Attention, mask: Option<[bool; 3]>, seed: u64) -> Case {
    let Attention {
        batch,
        heads,
        key_heads,
        queries,
        keys,
        width,
        ..
    } = shape;
    let q = noise(batch * queries * heads * width, seed);
    let [k, v] = [1, 2].map(|role| noise(batch * keys * key_heads * width, seed ^ role));
    let mask = mask.map(|full| {
        let axis = |axis: usize, len| if full[axis] { len } else { 1 };
        let shape = [axis(0, batch), axis(1, heads), axis(2, queries), keys];
        let mut values = noise(shape.iter().product(), seed ^ 3);
        // Some keys are not seen; the first one always is.
        for (index, value) in values.iter_mut().enumerate() {
            if index % keys % 3 == 2 {
                *value = f64::NEG_INFINITY;
            }
        }
        (values, shape)
    });
    ([q, k, v], mask)
}

fn shapes() -> impl Strategy<Value = (Attention, Option<[bool; 3]>)> {
    let heads = (1usize..3, 1usize..3, 1usize..4);
    let sizes = (1usize..60, 0usize..9, 1usize..12);
    (heads, sizes, any::<bool>(), any::<Option<[bool; 3]>>()).prop_map(
        |((batch, key_heads, group), (queries, more, width), causal, mask)| {
            let shape = Attention {
                batch,
                heads: key_heads * group,
                key_heads,
                queries,
                keys: queries + more,
                width,
                scale: 1.7,
                causal,
            };
            (shape, mask)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn forward_agrees_with_the_definition((shape, full) in shapes(), seed: u64) {
        let (inputs, mask) = case(shape, full, seed);
        let inputs = inputs.each_ref().map(Vec::as_slice);
        let mask = mask.as_ref().map(|(values, shape)| Mask { values: values.as_slice(), shape: *shape });
        let expected = reference(shape, inputs, mask);
        let (y, _) = forward_of(shape, inputs, mask);
        assert_close(&y, &expected, |_| 1e-13);
        // Single precision: the rounding of a score of size 2 * width, relatively in each term.
        let narrowed = inputs.map(narrow);
        let values = mask.map(|mask| narrow(mask.values));
        let narrow_mask = mask.zip(values.as_ref()).map(|(mask, values)| Mask { values: values.as_slice(), shape: mask.shape });
        let (y, _) = forward_of(shape, narrowed.each_ref().map(Vec::as_slice), narrow_mask);
        assert_close(&y, &expected, |_| 2f64.powi(-24) * 8.0 * (4.0 + 2.0 * shape.width as f64));
    }

    #[test]
    fn backward_is_the_derivative(
        (shape, full) in shapes().prop_filter("small", |(shape, _)| shape.queries < 8), seed: u64,
    ) {
        let (inputs, mask) = case(shape, full, seed);
        let [q, k, v] = inputs.each_ref().map(Vec::as_slice);
        let mask = mask.as_ref().map(|(values, shape)| Mask { values: values.as_slice(), shape: *shape });
        let gy = noise(q.len(), seed ^ 9);
        let [gq, gk, gv] = gradients_of(shape, [q, k, v], mask, &gy);
        let bound = |_| 1e-6;
        assert_close(&gq, &slope(q, &gy, |q| reference(shape, [q, k, v], mask)), bound);
        assert_close(&gk, &slope(k, &gy, |k| reference(shape, [q, k, v], mask)), bound);
        assert_close(&gv, &slope(v, &gy, |v| reference(shape, [q, k, v], mask)), bound);
    }
}

const LARGE: Attention = Attention {
    batch: 2,
    heads: 6,
    key_heads: 3,
    queries: 131,
    keys: 137,
    width: 33,
    scale: 0.17,
    causal: true,
};

#[test]
fn single_precision_agrees_with_double_over_many_rows() {
    let (inputs, _) = case(LARGE, None, 5);
    let gy = noise(inputs[0].len(), 6);
    let narrowed = inputs.each_ref().map(|x| narrow(x));
    let wide = narrowed.each_ref().map(|x| widen(x));
    let gy = narrow(&gy);
    let found = gradients_of(LARGE, narrowed.each_ref().map(Vec::as_slice), None, &gy);
    let expected = gradients_of(LARGE, wide.each_ref().map(Vec::as_slice), None, &widen(&gy));
    // Gradients of keys and values are sums over the queries of the group.
    for (found, expected) in found.iter().zip(&expected) {
        assert_close(found, expected, |i| {
            2f64.powi(-24) * 64.0 * (1.0 + expected[i].abs())
        });
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let (inputs, _) = case(LARGE, None, 5);
    let narrowed = inputs.each_ref().map(|x| narrow(x));
    let inputs = narrowed.each_ref().map(Vec::as_slice);
    assert_thread_independent(|| {
        let (y, _) = forward_of(LARGE, inputs, None);
        let gradients = gradients_of(LARGE, inputs, None, &y);
        [vec![y], gradients.to_vec()].concat().concat()
    });
}

#[test]
fn no_sequence_and_no_query_are_nothing() {
    for shape in [
        Attention { batch: 0, ..LARGE },
        Attention {
            queries: 0,
            ..LARGE
        },
    ] {
        let (inputs, _) = case(shape, None, 1);
        let gy = vec![0.0; inputs[0].len()];
        let [gq, gk, _] = gradients_of(shape, inputs.each_ref().map(Vec::as_slice), None, &gy);
        assert!(gq.is_empty() && gk.iter().all(|g| *g == 0.0));
    }
}

#[test]
#[should_panic(expected = "mask: found shape [1, 1, 1, 3]")]
fn masks_are_checked() {
    let (inputs, _) = case(LARGE, None, 1);
    let mask = Mask {
        values: &[0.0; 3],
        shape: [1, 1, 1, 3],
    };
    forward_of(LARGE, inputs.each_ref().map(Vec::as_slice), Some(mask));
}
