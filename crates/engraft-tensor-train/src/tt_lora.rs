//! TT-LoRA: the update of a weight as one tensor train.

use burn::module::Module;
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, check_dropout, positive_rank, refuse_dropout,
};
use serde::{Deserialize, Serialize};

use crate::modes::balanced;
use crate::tt::TensorTrain;

/// Configuration of [`TtLora`]. Defaults: tensor rank 5, alpha 16, modes of nearly equal size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TtLoraConfig {
    /// Rank R of the train.
    pub tensor_rank: usize,
    /// alpha, the factor of the update. It is not divided by a rank.
    pub alpha: f64,
    /// m_1, ..., m_p with product d_in; about log_8 d_in of nearly equal size if left out.
    pub input_modes: Option<Vec<usize>>,
    /// n_1, ..., n_q with product d_out; likewise.
    pub output_modes: Option<Vec<usize>>,
    /// Probability of zeroing an input of the update in training.
    pub dropout: f64,
}

impl Default for TtLoraConfig {
    fn default() -> Self {
        Self {
            tensor_rank: 5,
            alpha: 16.0,
            input_modes: None,
            output_modes: None,
            dropout: 0.0,
        }
    }
}

/// y = x W + b + alpha x M, with M(i_1 ... i_p, j_1 ... j_q) =
/// G_1(i_1) ... G_p(i_p) G_{p+1}(j_1) ... G_{p+q}(j_q).
///
/// | symbol | shape | |
/// |---|---|---|
/// | M | [d_in, d_out] | a train of p + q cores, never formed in `forward` |
/// | G_1 ... G_p (`input`) | [R, m_k, R], G_1 [1, m_1, R] | trained; of norm about 1 at first |
/// | G_{p+1} ... G_{p+q} (`output`) | [R, n_k, R], the last [R, n_q, 1] | trained; likewise, the last zero |
///
/// d_in = m_1 ... m_p and d_out = n_1 ... n_q, rows and columns in row-major order.
///
/// Anjum et al., Tensor Train Low-rank Approximation (TT-LoRA), arXiv 2408.01008; factor, rank,
/// modes and starting values as in the code of its sequel TT-LoRA MoE (arXiv 2504.21190,
/// TTLoRAWrapper_utils.py). There all cores are random, so that training does not start at the
/// pretrained model; here the last one is zero.
///
/// Cut between rows and columns, the train is a product of rank R: the first p cores make
/// [d_in, R], the others [R, d_out]. A token costs O(R (d_in + d_out)) beside the frozen layer, and
/// O(R^2 (d_in + d_out)) go once into putting both together.
#[derive(Module, Debug)]
pub struct TtLora {
    /// G_1, ..., G_p as [d_in, R].
    pub input: TensorTrain,
    /// G_{p+1}, ..., G_{p+q} as [R, d_out].
    pub output: TensorTrain,
    /// alpha.
    pub alpha: f64,
    /// Dropout probability on the inputs of M.
    pub dropout: f64,
}

impl Adapter for TtLora {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("tt-lora", self.dropout, ctx)?;
        let factors = (self.input.matrix(), self.output.matrix());
        Ok(base.with_low_rank(factors, self.alpha))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let factors = (self.input.matrix(), self.output.matrix());
        base.low_rank(x, factors, self.alpha, self.dropout, ctx)
    }
}

impl TtLoraConfig {
    /// m and n on a layer.
    fn modes(&self, d_in: usize, d_out: usize) -> [Vec<usize>; 2] {
        let chosen =
            |modes: &Option<Vec<usize>>, width| modes.clone().unwrap_or_else(|| balanced(width));
        [
            chosen(&self.input_modes, d_in),
            chosen(&self.output_modes, d_out),
        ]
    }

    /// Shapes of the cores of both parts.
    fn cores(&self, d_in: usize, d_out: usize) -> [Vec<[usize; 3]>; 2] {
        let [inputs, outputs] = self.modes(d_in, d_out);
        let (rank, last) = (self.tensor_rank, outputs.len() - 1);
        let left = |k| if k == 0 { 1 } else { rank };
        let right = |k| if k == last { 1 } else { rank };
        [
            inputs
                .iter()
                .enumerate()
                .map(|(k, &mode)| [left(k), mode, rank])
                .collect(),
            outputs
                .iter()
                .enumerate()
                .map(|(k, &mode)| [rank, mode, right(k)])
                .collect(),
        ]
    }
}

impl Graft for TtLoraConfig {
    type Adapter = TtLora;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        let check = |key: &str, modes: &Option<Vec<usize>>, width: usize| match modes {
            Some(modes) if modes.iter().product::<usize>() != width => Err(format!(
                "{key} {modes:?} have the product {}: expected {width}",
                modes.iter().product::<usize>()
            )),
            _ => Ok(()),
        };
        check("input-modes", &self.input_modes, layer.d_in)?;
        check("output-modes", &self.output_modes, layer.d_out)
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let cores = self.cores(layer.d_in, layer.d_out);
        Counts::trained(
            cores
                .iter()
                .flatten()
                .map(|core| core.iter().product::<usize>())
                .sum(),
        )
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<TtLora> {
        let (d_in, d_out, rank) = (base.d_in(), base.d_out(), self.tensor_rank);
        let [inputs, outputs] = self.cores(d_in, d_out);
        let std = |core: [usize; 3]| (core.iter().product::<usize>() as f64).sqrt().recip();
        let output = TensorTrain::drawn([rank, d_out], outputs.into_iter(), std, "output", ctx);
        Ok(TtLora {
            input: TensorTrain::drawn([d_in, rank], inputs.into_iter(), std, "input", ctx),
            output: output.ending_in_zero(),
            alpha: self.alpha,
            dropout: self.dropout,
        })
    }
}

impl Method for TtLoraConfig {
    const META: MethodMeta = MethodMeta::graft(
        "tt-lora",
        "TT-LoRA",
        Family::TensorTrain,
        "2408.01008",
        "y = x W + b + alpha x M, M one tensor train over the modes of rows and columns",
    );

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.tensor_rank).map_err(|reason| format!("tensor-{reason}"))?;
        for modes in [&self.input_modes, &self.output_modes]
            .into_iter()
            .flatten()
        {
            if modes.is_empty() || modes.contains(&0) {
                return Err(format!(
                    "modes {modes:?}: expected at least one, none of them 0"
                ));
            }
        }
        check_dropout(self.dropout)
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let small = Self {
            tensor_rank: 2,
            alpha: 3.0,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                tensor_rank: 3,
                input_modes: Some(vec![1, layer.d_in]),
                output_modes: Some(vec![layer.d_out]),
                dropout: 0.1,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::{DType, Device};
    use engraft_core::Bank;
    use engraft_tensor::{Init, Key, bridge};

    use super::*;

    fn draw<const D: usize>(shape: [usize; D], role: &str) -> Tensor<D> {
        Init::Normal { std: 1.0 }.tensor(
            shape,
            &Key::new(1).child(role),
            &Device::default(),
            DType::F64,
        )
    }

    #[test]
    fn the_update_is_one_train_over_rows_and_columns() {
        let config = TtLoraConfig {
            tensor_rank: 2,
            input_modes: Some(vec![2, 3]),
            output_modes: Some(vec![5, 2]),
            ..TtLoraConfig::default()
        };
        let base = FrozenBase::new(draw([6, 10], "w"), None);
        let bank = Bank::default();
        let mut adapter = config
            .init(&base, &InitContext::new(1, "fc", "default", &base, &bank))
            .unwrap();
        adapter.output.cores[1] = Param::from_tensor(draw([2, 2, 1], "last"));
        let update = adapter.effective(&base, &Ctx::default()).unwrap().weight() - base.weight();
        // The same cores as one train whose modes are those of the rows, then of the columns.
        let cores = adapter.input.cores.iter().chain(&adapter.output.cores);
        let whole = TensorTrain {
            cores: cores.cloned().collect(),
            rows: 6,
            cols: 10,
        };
        let expected = whole.matrix() * 16.0;
        let distance = bridge::to_matrix(&(update.clone() - expected)).max_abs();
        assert!(distance < 1e-13, "{distance:e}");
        let spectrum = engraft_linalg::svd(&bridge::to_matrix(&update)).unwrap().s;
        assert!(spectrum[1] > 1e-3 && spectrum[2] < 1e-14, "{spectrum:?}");

        let x = draw([4, 6], "x");
        let effective = adapter.effective(&base, &Ctx::default()).unwrap();
        let distance = adapter.forward(x.clone(), &base, &Ctx::default()) - effective.forward(x);
        assert!(bridge::to_matrix(&distance).max_abs() < 1e-12);
    }

    #[test]
    fn counts_are_those_of_the_authors_modes() {
        let count = |inputs: &[usize], outputs: &[usize]| {
            let config = TtLoraConfig {
                input_modes: Some(inputs.to_vec()),
                output_modes: Some(outputs.to_vec()),
                ..TtLoraConfig::default()
            };
            let layer = LayerShape::linear(
                "q",
                inputs.iter().product(),
                outputs.iter().product(),
                false,
            );
            config.admits(&layer).unwrap();
            config.count(&layer).trainable
        };
        // Queries and values of Llama-3.2-1B, "2% of LoRA's" 1,703,936 at rank 16.
        let query = count(&[16, 8, 4, 4], &[4, 4, 8, 16]);
        let value = count(&[16, 16, 4, 2], &[2, 16, 16]);
        assert_eq!((query, value, 16 * (query + value)), (960, 1_160, 33_920));
        // A query of RoBERTa-base.
        assert_eq!(count(&[64, 4, 3], &[3, 4, 64]), 990);
    }
}
