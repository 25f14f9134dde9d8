//! Rows of an embedding that are trained while the others are frozen.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};

use crate::adapter::Adapter;
use crate::base::FrozenBase;
use crate::counts::Counts;
use crate::ctx::Ctx;
use crate::error::Result;
use crate::lookup::Lookup;
use crate::shape::{LayerKind, LayerShape};

/// y = R[p(i), :] for the chosen tokens i, y = W[i, :] for all others.
///
/// | symbol | shape | |
/// |---|---|---|
/// | R | [k, width] | trained, the rows themselves rather than differences |
/// | p | | position of a token among the k chosen ones |
///
/// On a linear layer with one output per token (the output layer of a language model) the columns
/// of W are replaced in the same way. An output layer that shares the embedding's weight has the
/// trained rows too ([`Adapter::tied`]).
#[derive(Module, Debug)]
pub struct TokenRows {
    /// R, [k, width].
    pub rows: Param<Tensor<2>>,
    /// 1 + p(i) for a chosen token i, 0 for others, [vocabulary]. Made again from the configuration.
    places: Tensor<1, Int>,
    /// Whether tokens are columns of W rather than rows.
    #[module(skip)]
    columns: bool,
}

impl TokenRows {
    /// The tokens of a layer, and the width of each.
    fn dims(layer: &LayerShape) -> (usize, usize) {
        match layer.kind {
            LayerKind::Embedding => (layer.d_in, layer.d_out),
            _ => (layer.d_out, layer.d_in),
        }
    }

    /// Whether these tokens can be trained on a layer: the reason if not.
    ///
    /// # Errors
    /// No token, a token outside the vocabulary or named twice, a layer that is neither an
    /// embedding nor linear.
    pub fn admits(tokens: &[usize], layer: &LayerShape) -> Result<(), String> {
        if !matches!(layer.kind, LayerKind::Embedding | LayerKind::Linear) {
            return Err(format!(
                "found a layer of kind {:?}, expected an embedding or a linear layer with one output per token",
                layer.kind
            ));
        }
        let (vocabulary, _) = Self::dims(layer);
        if tokens.is_empty() {
            return Err("found no token to train, expected at least one index".to_owned());
        }
        if let Some(token) = tokens.iter().find(|token| **token >= vocabulary) {
            return Err(format!(
                "found token {token}, expected one below {vocabulary}"
            ));
        }
        let mut sorted = tokens.to_vec();
        sorted.sort_unstable();
        match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("found token {} twice", pair[0])),
            None => Ok(()),
        }
    }

    /// Trained values on a layer.
    pub fn count(tokens: &[usize], layer: &LayerShape) -> Counts {
        Counts::trained(tokens.len() * Self::dims(layer).1)
    }

    /// The rows of these tokens as they are in `base`; [`admits`](Self::admits) holds.
    pub fn new(tokens: &[usize], base: &FrozenBase, kind: LayerKind) -> Self {
        let columns = kind != LayerKind::Embedding;
        let table = match columns {
            true => base.weight().transpose(),
            false => base.weight(),
        };
        let device = base.device();
        let ints = |values: Vec<i64>| {
            let count = values.len();
            Tensor::<1, Int>::from_data(TensorData::new(values, [count]), &device)
        };
        let mut places = vec![0; table.dims()[0]];
        for (place, token) in tokens.iter().enumerate() {
            places[*token] = 1 + place as i64;
        }
        let chosen = ints(tokens.iter().map(|token| *token as i64).collect());
        Self {
            rows: Param::from_tensor(table.select(0, chosen).detach()),
            places: ints(places),
            columns,
        }
    }

    /// The same with other rows at first.
    pub fn starting_at(self, rows: Tensor<2>) -> Self {
        Self {
            rows: Param::from_tensor(rows),
            ..self
        }
    }

    /// Rows `y` that belong to tokens at these places, those of chosen tokens replaced.
    fn in_rows(&self, y: Tensor<2>, places: Tensor<1, Int>) -> Tensor<2> {
        let dims = y.dims();
        let rows = self.rows.val();
        let own = Tensor::cat(vec![rows.zeros_like().narrow(0, 0, 1), rows], 0);
        let frozen = places
            .clone()
            .equal_elem(0)
            .unsqueeze_dim::<2>(1)
            .expand(dims);
        own.select(0, places).mask_where(frozen, y)
    }

    /// Columns `y` of all tokens, those of the chosen tokens replaced by `own`, [n, k].
    fn in_columns(&self, y: Tensor<2>, own: Tensor<2>) -> Tensor<2> {
        let dims = y.dims();
        let own = Tensor::cat(vec![own.zeros_like().narrow(1, 0, 1), own], 1);
        let frozen = self
            .places
            .clone()
            .equal_elem(0)
            .unsqueeze_dim::<2>(0)
            .expand(dims);
        own.select(1, self.places.clone()).mask_where(frozen, y)
    }
}

impl Adapter for TokenRows {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        let weight = base.weight();
        Ok(base.with_weight(match self.columns {
            true => self.in_columns(weight, self.rows.val().transpose()),
            false => self.in_rows(weight, self.places.clone()),
        }))
    }

    /// O(n k width) beside the frozen product.
    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        if !self.columns {
            let layer = self.effective(base, ctx).expect("it has a weight form");
            return layer.forward(x);
        }
        let y = x.clone().matmul(base.weight());
        base.add_bias(self.in_columns(y, x.matmul(self.rows.val().transpose())))
    }

    /// Gathers the rows of the indices only.
    fn lookup(&self, rows: &Lookup, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        if self.columns {
            let layer = self.effective(base, ctx).expect("it has a weight form");
            return layer.lookup(rows);
        }
        let y = base.weight().select(0, rows.indices());
        let y = self.in_rows(y, self.places.clone().select(0, rows.indices()));
        base.add_bias(rows.hold(y))
    }

    fn ties(&self) -> bool {
        true
    }

    fn tied(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let own = x.clone().matmul(self.rows.val().transpose());
        self.in_columns(base.tied(x), own)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_tensor::{Init, Key, bridge};

    use super::*;

    fn normal(shape: [usize; 2], role: &str) -> Tensor<2> {
        let key = Key::new(1).child(role);
        Init::Normal { std: 1.0 }.tensor(shape, &key, &Device::default(), DType::F64)
    }

    fn difference(one: Tensor<2>, other: Tensor<2>) -> f64 {
        bridge::values(&(one - other))
            .into_iter()
            .fold(0.0, |most, value: f64| most.max(value.abs()))
    }

    #[test]
    fn chosen_rows_are_replaced_and_all_forms_agree() {
        let base = FrozenBase::new(normal([7, 3], "w"), None);
        let ctx = Ctx::default();
        let fresh = TokenRows::new(&[5, 2], &base, LayerKind::Embedding);
        assert_eq!(
            difference(
                fresh.effective(&base, &ctx).unwrap().weight(),
                base.weight()
            ),
            0.0
        );
        let rows = normal([2, 3], "rows");
        let moved = fresh.starting_at(rows.clone());
        let weight = moved.effective(&base, &ctx).unwrap().weight();
        for (token, own) in [(5, Some(0)), (2, Some(1)), (0, None), (6, None)] {
            let expected = match own {
                Some(place) => rows.clone().narrow(0, place, 1),
                None => base.weight().narrow(0, token, 1),
            };
            assert_eq!(
                difference(weight.clone().narrow(0, token, 1), expected),
                0.0
            );
        }
        let indices = Tensor::<1, Int>::from_data([2, 2, 6, 5], &Device::default());
        let found = moved.lookup(&Lookup::new(indices.clone()), &base, &ctx);
        assert_eq!(difference(found, weight.clone().select(0, indices)), 0.0);
        let x = normal([4, 3], "x");
        let tied = moved.tied(x.clone(), &base, &ctx);
        assert!(difference(tied, x.matmul(weight.transpose())) < 1e-12);
    }

    #[test]
    fn columns_of_a_linear_layer_are_replaced() {
        let base = FrozenBase::new(normal([3, 7], "w"), None);
        let rows =
            TokenRows::new(&[6, 1], &base, LayerKind::Linear).starting_at(normal([2, 3], "r"));
        let (x, ctx) = (normal([4, 3], "x"), Ctx::default());
        let weight_form = rows.effective(&base, &ctx).unwrap().forward(x.clone());
        assert!(difference(rows.forward(x, &base, &ctx), weight_form) < 1e-12);
    }

    #[test]
    fn tokens_outside_the_vocabulary_or_named_twice_are_refused() {
        let layer = LayerShape {
            kind: LayerKind::Embedding,
            ..LayerShape::linear("emb", 7, 3, false)
        };
        assert!(TokenRows::admits(&[0, 6], &layer).is_ok());
        for tokens in [&[][..], &[7], &[3, 3]] {
            assert!(TokenRows::admits(tokens, &layer).is_err());
        }
        assert_eq!(TokenRows::count(&[0, 6], &layer), Counts::trained(6));
    }
}
