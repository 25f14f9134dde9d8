//! SVFT: a sparse matrix between the frozen singular vectors.

use burn::module::{Module, Param, ParamId};
use burn::tensor::activation::sigmoid;
use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};
use engraft_core::{
    Adapter, AtInit, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method,
    MethodMeta, Parts, Result, admit_rank,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::spectrum::{frozen, leading, tensor};
use crate::svft_pattern::SvftPattern;

/// How the entries of M start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SvftStart {
    /// N(0, 2 / k) for k entries, as `kaiming_normal_` of a row of them: the authors' code. The
    /// model is then slightly off its pretrained state.
    #[default]
    Kaiming,
    /// Zeros: the pretrained model.
    Zeros,
}

/// Configuration of [`Svft`]. Plain, with the gate and the start of the authors' code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SvftConfig {
    /// Which entries of M are trained.
    pub pattern: SvftPattern,
    /// Number n of singular triples kept, the rest of the weight being dropped; min(d_in, d_out) if
    /// left out.
    pub rank: Option<usize>,
    /// Whether M is multiplied by sigmoid(g) with a trained g, zero at first.
    pub gate: bool,
    /// How M starts.
    pub start: SvftStart,
}

impl Default for SvftConfig {
    fn default() -> Self {
        Self {
            pattern: SvftPattern::Plain,
            rank: None,
            gate: true,
            start: SvftStart::Kaiming,
        }
    }
}

impl SvftConfig {
    /// n on a layer.
    fn triples(&self, layer: &LayerShape) -> usize {
        self.rank.unwrap_or_else(|| layer.max_rank())
    }
}

/// y = x U (S + sigmoid(g) M) V^T + b, with W = U S V^T.
///
/// | symbol | shape | |
/// |---|---|---|
/// | U, V^T | [d_in, n], [n, d_out] | frozen singular vectors, in the adapter file |
/// | M | [n, n], k entries | trained where the pattern says, zero elsewhere |
/// | g | `[1]` | trained gate, zero at first; only with `gate` |
///
/// Lingam et al., SVFT: Parameter-Efficient Fine-Tuning with Singular Vectors, arXiv 2405.19597,
/// section 3. The paper's M is d_in x d_out; as in the authors' code (`svft/svft_layers.py`) it is
/// restricted to the n x n block that meets singular values. Gate and start are those of the code;
/// the paper mentions neither, and its tables count the gate in one row only. Fewer triples than
/// min(d_in, d_out) drop the rest of the weight (its table 10).
///
/// The base does its own part; the activation form costs O(tokens (d_in d_out + n (d_in + d_out)))
/// beside it, and O(tokens n^2) more except for the plain pattern: scattered over all of M, its k
/// entries are multiplied faster as the small dense matrix they stand in.
#[derive(Module, Debug)]
pub struct Svft {
    /// U, [d_in, n].
    pub u: Param<Tensor<2>>,
    /// V^T, [n, d_out].
    pub vt: Param<Tensor<2>>,
    /// Trained entries of M, `[k]`.
    pub m: Param<Tensor<1>>,
    /// Their places, row * n + column; the diagonal if there are none.
    pub places: Option<Param<Tensor<1, Int>>>,
    /// g, `[1]`.
    pub gate: Option<Param<Tensor<1>>>,
    /// Whether W was cut to n triples.
    is_cut: bool,
}

impl Svft {
    /// sigmoid(g) M's entries, `[k]`.
    fn entries(&self) -> Tensor<1> {
        match &self.gate {
            Some(gate) => self.m.val() * sigmoid(gate.val()),
            None => self.m.val(),
        }
    }

    /// z sigmoid(g) M for rows z [tokens, n].
    fn mix(&self, z: Tensor<2>) -> Tensor<2> {
        let (n, entries) = (z.dims()[1], self.entries());
        match &self.places {
            None => z * entries.unsqueeze(),
            Some(places) => {
                let zeros = Tensor::<1>::zeros([n * n], (&z.device(), z.dtype()));
                let m = zeros.scatter(0, places.val(), entries, IndexingUpdateOp::Add);
                z.matmul(m.reshape([n, n]))
            }
        }
    }
}

impl Adapter for Svft {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        let update = self.mix(self.u.val()).matmul(self.vt.val());
        Ok(base.with_weight(base.weight() + update))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let update = self.mix(x.clone().matmul(self.u.val()));
        base.forward(x) + update.matmul(self.vt.val())
    }

    fn rebase(&self, base: &FrozenBase) -> Option<FrozenBase> {
        let kept = |u: Tensor<2>| u.clone().matmul(u.transpose().matmul(base.weight()));
        self.is_cut
            .then(|| base.with_weight(kept(self.u.val()).detach()))
    }
}

impl Graft for SvftConfig {
    type Adapter = Svft;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        let triples = self.triples(layer);
        admit_rank(triples, layer.max_rank())?;
        self.pattern.admits(triples, layer)
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let triples = self.triples(layer);
        let entries = self.pattern.entries(triples);
        let places = if self.pattern == SvftPattern::Plain {
            0
        } else {
            entries
        };
        Counts::with_frozen(
            entries + usize::from(self.gate),
            triples * (layer.d_in + layer.d_out) + places,
        )
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Svft> {
        let triples = self.triples(&base.shape(ctx.path));
        let found = leading(base, triples, 0, ctx)?;
        let entries = self.pattern.entries(triples);
        let start = match self.start {
            SvftStart::Kaiming => Init::Normal {
                std: (2.0 / entries as f64).sqrt(),
            },
            SvftStart::Zeros => Init::ZEROS,
        };
        let places = self
            .pattern
            .places(&found, &ctx.key.child("places"))
            .map_err(|error| ctx.numeric(error))?;
        let places = places.map(|places| {
            let data = TensorData::new(places, [entries]);
            Param::initialized(ParamId::new(), Tensor::from_data(data, &ctx.device))
        });
        Ok(Svft {
            u: frozen(tensor(&found.u, ctx)),
            vt: frozen(tensor(&found.vt, ctx)),
            m: Param::from_tensor(ctx.tensor(start, [entries], "m")),
            places,
            gate: self
                .gate
                .then(|| Param::from_tensor(ctx.tensor(Init::ZEROS, [1], "gate"))),
            is_cut: triples < base.d_in().min(base.d_out()),
        })
    }
}

impl Method for SvftConfig {
    const META: MethodMeta = MethodMeta {
        at_init: AtInit::NotIdentity,
        admits: "a linear layer with min(d_in, d_out) above the number of off-diagonals",
        ..MethodMeta::graft(
            "svft",
            "SVFT",
            Family::Svd,
            "2405.19597",
            "y = x U (S + sigmoid(g) M) V^T + b, W = U S V^T, M sparse",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        match self.rank {
            Some(rank) => engraft_core::positive_rank(rank),
            None => Ok(()),
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let n = layer.max_rank();
        let patterned = |pattern| Self {
            pattern,
            ..Self::default()
        };
        let off_diagonals = (n - 1).min(2);
        let mut examples = vec![
            Self::default(),
            patterned(SvftPattern::Banded { off_diagonals }),
            patterned(SvftPattern::Random { off_diagonals }),
            patterned(SvftPattern::TopK { off_diagonals }),
        ];
        if n > 2 {
            examples.push(Self {
                pattern: SvftPattern::Banded { off_diagonals: 1 },
                rank: Some(n - 1),
                gate: false,
                ..Self::default()
            });
        }
        examples
    }
}

#[cfg(test)]
mod tests {
    use engraft_linalg::Matrix;
    use engraft_tensor::bridge;

    use super::*;
    use crate::testing::{attach, base, forms_differ, largest};

    #[test]
    fn the_plain_pattern_keeps_the_singular_vectors() {
        let base = base([9, 6]);
        let adapter = attach(&SvftConfig::default(), &base);
        let moved = adapter.effective(&base, &Ctx::default()).unwrap().weight();
        let between = adapter
            .u
            .val()
            .transpose()
            .matmul(moved)
            .matmul(adapter.vt.val().transpose());
        let core = bridge::to_matrix(&between);
        let diagonal: Vec<f64> = (0..6).map(|i| core.get(i, i)).collect();
        let off = core
            .max_abs_diff(&Matrix::from_diagonal(&diagonal))
            .unwrap();
        assert!(off < 1e-12, "{off:e}");
    }

    #[test]
    fn the_update_lies_where_the_pattern_says_and_both_forms_agree() {
        for (shape, pattern) in [
            ([9, 6], SvftPattern::Banded { off_diagonals: 1 }),
            ([6, 6], SvftPattern::TopK { off_diagonals: 1 }),
            ([5, 8], SvftPattern::Random { off_diagonals: 2 }),
        ] {
            let base = base(shape);
            let config = SvftConfig {
                pattern,
                ..SvftConfig::default()
            };
            let adapter = attach(&config, &base);
            assert!(forms_differ(&adapter, &base) < 1e-12);
            let update =
                adapter.effective(&base, &Ctx::default()).unwrap().weight() - base.weight();
            let core = adapter
                .u
                .val()
                .transpose()
                .matmul(update)
                .matmul(adapter.vt.val().transpose());
            let nonzero = bridge::values(&core)
                .iter()
                .filter(|entry| entry.abs() > 1e-12)
                .count();
            assert_eq!(nonzero, pattern.entries(shape[0].min(shape[1])));
        }
    }

    #[test]
    fn fewer_triples_leave_the_best_approximation_and_zeros_leave_it_alone() {
        let base = base([8, 6]);
        let config = SvftConfig {
            rank: Some(4),
            start: SvftStart::Zeros,
            gate: false,
            ..SvftConfig::default()
        };
        let adapter = attach(&config, &base);
        let cut = adapter.rebase(&base).unwrap();
        let best = engraft_linalg::svd(&bridge::to_matrix(&base.weight()))
            .and_then(|all| all.truncated(4)?.reconstruct())
            .unwrap();
        let error = bridge::to_matrix(&cut.weight())
            .max_abs_diff(&best)
            .unwrap();
        assert!(error < 1e-12, "{error:e}");
        let start = adapter.effective(&cut, &Ctx::default()).unwrap();
        assert_eq!(largest(start.weight() - cut.weight()), 0.0);
    }

    #[test]
    fn counts_are_the_published_ones() {
        // Gemma-2B and 7B, LLaMA-3-8B, DeBERTaV3-base and ViT: width, queries, keys and values,
        // feed-forward, layers.
        let sum = |config: &SvftConfig, layers: usize, shapes: &[(usize, usize)]| {
            let one = |(d_in, d_out): &(usize, usize)| {
                let layer = LayerShape::linear("fc", *d_in, *d_out, false);
                config.admits(&layer).unwrap();
                config.count(&layer).trainable
            };
            layers * shapes.iter().map(one).sum::<usize>()
        };
        let ungated = |pattern| SvftConfig {
            pattern,
            gate: false,
            ..SvftConfig::default()
        };
        let plain = ungated(SvftPattern::Plain);
        let banded = |off_diagonals| ungated(SvftPattern::Banded { off_diagonals });
        let random = |off_diagonals| ungated(SvftPattern::Random { off_diagonals });
        let seven =
            |d, q, kv, ff| vec![(d, q), (d, kv), (d, kv), (q, d), (d, ff), (d, ff), (ff, d)];
        let gemma2 = seven(2048, 2048, 256, 16384);
        let gemma7 = seven(3072, 4096, 4096, 24576);
        assert_eq!(sum(&plain, 18, &gemma2), 193_536);
        assert_eq!(sum(&banded(8), 18, &gemma2), 3_281_040);
        assert_eq!(sum(&banded(16), 18, &gemma2), 6_352_416);
        let cut = SvftConfig {
            rank: Some(128),
            ..banded(64)
        };
        assert_eq!(sum(&cut, 18, &gemma2), 1_556_352);
        assert_eq!(sum(&plain, 28, &gemma7), 602_112);
        assert_eq!(sum(&plain, 28, &gemma7[1..]), 516_096);
        assert_eq!(sum(&banded(8), 28, &gemma7), 10_221_792);
        assert_eq!(sum(&random(16), 28, &gemma7), 19_816_384);
        let llama = &seven(4096, 4096, 1024, 14336)[3..];
        assert_eq!(sum(&plain, 32, llama), 524_288);
        assert_eq!(sum(&random(12), 32, llama), 13_087_232);
        let six = |d: usize| seven(d, d, d, 4 * d)[..6].to_vec();
        assert_eq!(sum(&plain, 12, &six(768)), 55_296);
        assert_eq!(sum(&random(2), 12, &six(768)), 276_048);
        assert_eq!(sum(&banded(4), 12, &six(768)), 496_224);
        assert_eq!(sum(&banded(8), 12, &six(768)), 934_848);
        assert_eq!(sum(&banded(2), 24, &six(1024)), 736_416);
        assert_eq!(sum(&banded(4), 24, &six(1024)), 1_324_224);
        assert_eq!(sum(&banded(8), 24, &six(1024)), 2_496_384);
        // Queries and values with the gate.
        assert_eq!(sum(&SvftConfig::default(), 12, &six(768)[..2]), 18_456);
    }
}
