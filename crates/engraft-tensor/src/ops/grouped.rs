//! Updates of the rows of a batch, each group of rows with factors of its own.

use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData};

/// The update s ((x A) B + c) of tokens x.
#[derive(Debug, Clone)]
pub struct Factors {
    /// A, [d_in, r].
    pub a: Tensor<2>,
    /// B, [r, d_out].
    pub b: Tensor<2>,
    /// c, `[d_out]`.
    pub offset: Option<Tensor<1>>,
    /// s.
    pub scaling: f64,
}

impl Factors {
    /// s ((x A) B + c), [tokens, d_out], for x: [tokens, d_in].
    pub fn update(&self, x: Tensor<2>) -> Tensor<2> {
        let narrow = x.matmul(self.a.clone()) * self.scaling;
        let update = narrow.matmul(self.b.clone());
        match &self.offset {
            Some(offset) => update + (offset.clone() * self.scaling).unsqueeze(),
            None => update,
        }
    }
}

/// Which tokens the rows of a batch are: row i is tokens i n to (i + 1) n - 1.
#[derive(Debug, Clone, Copy)]
pub struct RowTokens(pub usize);

impl RowTokens {
    /// Positions of the tokens of these rows, in their order.
    pub fn positions(self, rows: &[usize], device: &Device) -> Tensor<1, Int> {
        let tokens = |&row: &usize| (row * self.0) as i64..((row + 1) * self.0) as i64;
        let values: Vec<i64> = rows.iter().flat_map(tokens).collect();
        let shape = [values.len()];
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    /// The tokens of these rows; consecutive ones are not copied.
    pub fn select(self, x: Tensor<2>, rows: &[usize]) -> Tensor<2> {
        if rows.windows(2).all(|pair| pair[1] == pair[0] + 1) && !rows.is_empty() {
            x.narrow(0, rows[0] * self.0, rows.len() * self.0)
        } else {
            let positions = self.positions(rows, &x.device());
            x.select(0, positions)
        }
    }
}

/// y with `update` of each group's number and tokens of x added to the group's rows. No row is in
/// two groups; rows in none stay as they are.
pub fn grouped(
    y: Tensor<2>,
    x: Tensor<2>,
    tokens: RowTokens,
    groups: &[&[usize]],
    update: impl Fn(usize, Tensor<2>) -> Tensor<2>,
) -> Tensor<2> {
    if groups.is_empty() {
        return y;
    }
    let updates = groups
        .iter()
        .enumerate()
        .map(|(group, rows)| update(group, tokens.select(x.clone(), rows)));
    let positions = tokens.positions(&groups.concat(), &y.device());
    let updates = Tensor::cat(updates.collect(), 0);
    y.select_assign(0, positions, updates, IndexingUpdateOp::Add)
}

/// y [tokens, d_out] with the factors' update of x [tokens, d_in] added to each group's rows. No row
/// is in two groups; rows in none stay as they are and cost nothing.
///
/// On flex and outside autodiff one pass over x and y, in the memory of y, whatever the number of
/// groups: 2 tokens r (d_in + d_out) flops. Elsewhere [`grouped`].
pub fn grouped_low_rank(
    y: Tensor<2>,
    x: Tensor<2>,
    tokens: RowTokens,
    groups: &[(Factors, &[usize])],
) -> Tensor<2> {
    #[cfg(feature = "flex")]
    let y = match flex::run(y, &x, tokens, groups) {
        Ok(updated) => return updated,
        Err(y) => y,
    };
    let rows: Vec<&[usize]> = groups.iter().map(|(_, rows)| *rows).collect();
    grouped(y, x, tokens, &rows, |group, x| groups[group].0.update(x))
}

#[cfg(feature = "flex")]
mod flex {
    use burn::backend::flex::FlexTensor;
    use burn::backend::{
        BackendTensor, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind, TensorMetadata,
    };
    use burn::tensor::{DType, Element};
    use engraft_kernels::{Group, GroupedRows, LowRank, Real};

    use super::super::flex::contiguous;
    use super::{Factors, RowTokens, Tensor};

    /// The tensor in row-major order, if it is on flex, in this precision and not differentiated.
    fn plain<const D: usize>(tensor: &Tensor<D>, dtype: DType) -> Option<FlexTensor> {
        let tensor = tensor.clone().into_dispatch();
        match (tensor.kind, tensor.autodiff) {
            (DispatchTensorKind::Flex(inner), DispatchAutodiffContext::Disabled)
                if inner.dtype() == dtype =>
            {
                Some(contiguous(inner.float()))
            }
            _ => None,
        }
    }

    /// What [`Factors`] are on flex.
    struct Held {
        a: FlexTensor,
        b: FlexTensor,
        offset: Option<FlexTensor>,
    }

    impl Held {
        fn new(factors: &Factors, dtype: DType) -> Option<Self> {
            Some(Self {
                a: plain(&factors.a, dtype)?,
                b: plain(&factors.b, dtype)?,
                offset: match &factors.offset {
                    Some(offset) => Some(plain(offset, dtype)?),
                    None => None,
                },
            })
        }
    }

    /// The kernel, or y where it cannot run.
    #[expect(
        clippy::result_large_err,
        reason = "the other outcome is the tensor itself, not an error"
    )]
    pub(super) fn run(
        y: Tensor<2>,
        x: &Tensor<2>,
        tokens: RowTokens,
        groups: &[(Factors, &[usize])],
    ) -> Result<Tensor<2>, Tensor<2>> {
        let dtype = y.dtype();
        let ([_, d_in], [_, d_out]) = (x.dims(), y.dims());
        let shape = GroupedRows {
            d_in,
            d_out,
            tokens: tokens.0,
        };
        let held: Option<Vec<Held>> = groups
            .iter()
            .map(|(factors, _)| Held::new(factors, dtype))
            .collect();
        let (Some(held), Some(x)) = (held, plain(x, dtype)) else {
            return Err(y);
        };
        let add = match dtype {
            DType::F32 => add::<f32>,
            DType::F64 => add::<f64>,
            _ => return Err(y),
        };
        if plain(&y, dtype).is_none() {
            return Err(y);
        }
        let DispatchTensor { kind, autodiff } = y.into_dispatch();
        let DispatchTensorKind::Flex(y) = kind else {
            unreachable!("checked to be on flex")
        };
        let mut y = contiguous(y.float());
        add(shape, &x, &mut y, &held, groups);
        Ok(Tensor::from_dispatch(DispatchTensor {
            kind: DispatchTensorKind::Flex(BackendTensor::Float(y)),
            autodiff,
        }))
    }

    fn slice<T: Real + Element + bytemuck::Pod>(tensor: &FlexTensor) -> &[T] {
        tensor
            .as_slice()
            .expect("made contiguous, of this precision")
    }

    fn add<T: Real + Element + bytemuck::Pod>(
        shape: GroupedRows,
        x: &FlexTensor,
        y: &mut FlexTensor,
        held: &[Held],
        groups: &[(Factors, &[usize])],
    ) {
        let groups: Vec<Group<'_, T>> = held
            .iter()
            .zip(groups)
            .map(|(held, (factors, rows))| Group {
                update: LowRank {
                    a: slice(&held.a),
                    b: slice(&held.b),
                    offset: held.offset.as_ref().map(slice),
                    scale: T::from_f64(factors.scaling),
                },
                rows,
            })
            .collect();
        let (start, end) = y.layout().contiguous_offsets().expect("made contiguous");
        // Copied first where somebody else holds y.
        let y = &mut y.storage_mut::<T>()[start..end];
        shape.add(slice(x), y, &groups);
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;

    use super::super::testing::{Drawn, agree};
    use super::*;
    use crate::{Init, Key, bridge};

    const SHAPES: [&[usize]; 7] = [
        &[24, 9],
        &[24, 5],
        &[9, 2],
        &[2, 5],
        &[9, 17],
        &[17, 5],
        &[5],
    ];

    /// Rows of the two groups, in a batch of 8 rows of 3 tokens.
    const ROWS: [&[usize]; 2] = [&[6, 0], &[2, 3, 4]];

    fn groups(drawn: &[Drawn]) -> [(Factors, &'static [usize]); 2] {
        let factors = |at: usize, offset| Factors {
            a: drawn[at].matrix(),
            b: drawn[at + 1].matrix(),
            offset,
            scaling: 0.5 * at as f64,
        };
        [
            (factors(2, None), ROWS[0]),
            (factors(4, Some(drawn[6].vector())), ROWS[1]),
        ]
    }

    /// One row after the other.
    fn by_rows(x: Tensor<2>, y: Tensor<2>, groups: &[(Factors, &[usize])]) -> Tensor<2> {
        let row = |row: usize| {
            let (x, y) = (
                x.clone().narrow(0, 3 * row, 3),
                y.clone().narrow(0, 3 * row, 3),
            );
            match groups.iter().find(|(_, rows)| rows.contains(&row)) {
                Some((factors, _)) => y + factors.update(x),
                None => y,
            }
        };
        Tensor::cat((0..8).map(row).collect(), 0)
    }

    #[test]
    fn values_and_gradients_are_those_of_single_rows() {
        agree(&SHAPES, 9 * 17, |drawn, fast| {
            let (x, y, groups) = (drawn[0].matrix(), drawn[1].matrix(), groups(drawn));
            if fast {
                grouped_low_rank(y, x, RowTokens(3), &groups)
            } else {
                by_rows(x, y, &groups)
            }
        });
    }

    #[test]
    fn the_kernel_equals_the_composition_and_leaves_the_given_tensor_alone() {
        let device = Device::default();
        let draw = |at: usize| {
            let key = Key::new(2).child(&at.to_string());
            let shape = SHAPES[at];
            let flat: Tensor<1> = Init::Normal { std: 1.0 }.tensor(
                [shape.iter().product()],
                &key,
                &device,
                DType::F64,
            );
            Drawn::new(flat, shape)
        };
        let drawn: Vec<Drawn> = (0..SHAPES.len()).map(draw).collect();
        // A transposed input is read in its order.
        let (x, y) = (
            drawn[0].matrix().transpose().reshape([24, 9]),
            drawn[1].matrix(),
        );
        let groups = groups(&drawn);
        let before = bridge::values(&y);
        let found = grouped_low_rank(y.clone(), x.clone(), RowTokens(3), &groups);
        assert_eq!(bridge::values(&y), before);
        let expected = grouped(y, x, RowTokens(3), &ROWS, |at, x| groups[at].0.update(x));
        for (found, expected) in bridge::values(&found).iter().zip(bridge::values(&expected)) {
            assert!(
                (found - expected).abs() < 1e-12,
                "{found} against {expected}"
            );
        }
    }
}
