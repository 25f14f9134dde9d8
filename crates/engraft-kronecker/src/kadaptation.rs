//! KAdaptation: Kronecker adaptation of attention.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, BankSpec, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method,
    MethodMeta, Parts, Result, check_dropout, dropout,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::phm::{admit_division, check_sizes, common_divisor, glorot};

/// Half the width of the first values of the rules, in the authors' code.
const RULE_BOUND: f64 = 0.01;

/// Which layers have the rules A_k in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sharing {
    /// Those of one name, that is of one last component of the path: all `query` layers have one
    /// set, all `value` layers another (the authors' code).
    #[default]
    ByName,
    /// All.
    All,
}

impl Sharing {
    fn group(self, path: &str) -> &str {
        match self {
            Self::ByName => path.rsplit('.').next().unwrap_or(path),
            Self::All => "all",
        }
    }
}

/// Configuration of [`Kadaptation`]. Defaults of the authors' code: n = 32, rank 1, a factor of
/// 160, an offset. There entries of the update are dropped with probability 0.5; here none are
/// unless asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct KadaptationConfig {
    /// n, a divisor of d_in and d_out.
    pub division: usize,
    /// Rank r of each u_k v_k.
    pub rank: usize,
    /// `by-name` or `all`.
    pub rules: Sharing,
    /// Factor c of the update.
    pub scale: f64,
    /// Whether layers of one parent (the projections of one attention) have a trained offset.
    pub bias: bool,
    /// Probability of zeroing an entry of the update in training.
    pub dropout: f64,
}

impl Default for KadaptationConfig {
    fn default() -> Self {
        Self {
            division: 32,
            rank: 1,
            rules: Sharing::ByName,
            scale: 160.0,
            bias: true,
            dropout: 0.0,
        }
    }
}

/// y = x W + b + c x sum_k (l_k^T r_k) (x) (u_k v_k) + o, k = 1 ... n, with (x) the Kronecker
/// product.
///
/// | symbol | shape | |
/// |---|---|---|
/// | l_k, r_k | [1, n] each | bank, rows of [n, n]; U(-0.01, 0.01) at first: the slow, shared rules |
/// | u_k | [d_in / n, r] | trained; Glorot uniform at first |
/// | v_k | [r, d_out / n] | trained; zero at first |
/// | o | `[d_out]` | bank, one per parent module; zero at first |
///
/// He et al., Parameter-efficient Model Adaptation for Vision Transformers, arXiv 2203.16329,
/// section 3.3. The authors' code (PEViT, evaluation/model.py) has the factor 160 = 128 / 4 * 5 and
/// the offset, which one attention adds to queries and values alike. Two things there are not
/// followed: u and v both start at zero, where the gradients of all but the offset vanish, and the
/// values are adapted with the fast factors of the queries, so that their own are counted but idle.
///
/// A product with rank-1 rules has rank r, and all n of them together are a product of two thin
/// matrices, [d_in, n r] and [n r, d_out]: a token costs O(n r (d_in + d_out)). Dropout acts on
/// the entries of the update, which is formed for that in training only.
#[derive(Module, Debug)]
pub struct Kadaptation {
    /// u, [n, d_in / n, r].
    pub u: Param<Tensor<3>>,
    /// v, [n, r, d_out / n].
    pub v: Param<Tensor<3>>,
    /// c.
    pub scale: f64,
    /// Dropout probability on the entries of the update.
    pub dropout: f64,
    #[module(skip)]
    left: String,
    #[module(skip)]
    right: String,
    #[module(skip)]
    offset: Option<String>,
}

impl Kadaptation {
    /// The update as a product: columns l_k^T (x) u_k [d_in, n r], rows r_k (x) v_k [n r, d_out].
    fn thin(&self, ctx: &Ctx) -> (Tensor<2>, Tensor<2>) {
        let (u, v) = (self.u.val(), self.v.val());
        let ([n, p, rank], [_, _, q]) = (u.dims(), v.dims());
        let left = ctx.shared(&self.left).transpose().reshape([n, 1, n, 1]);
        let right = ctx.shared(&self.right).reshape([n, 1, n, 1]);
        let columns = left * u.permute([1, 0, 2]).reshape([1, p, n, rank]);
        let rows = right * v.reshape([n, rank, 1, q]);
        (
            columns.reshape([n * p, n * rank]),
            rows.reshape([n * rank, n * q]) * self.scale,
        )
    }

    fn offset(&self, ctx: &Ctx) -> Option<Tensor<2>> {
        self.offset.as_ref().map(|name| ctx.shared(name))
    }
}

impl Adapter for Kadaptation {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        let (columns, rows) = self.thin(ctx);
        let update = dropout(columns.matmul(rows), self.dropout, ctx);
        let mut layer = base.with_weight(base.weight() + update);
        if let Some(offset) = self.offset(ctx) {
            let offset = offset.reshape([base.d_out()]);
            layer.bias = Some(match layer.bias {
                Some(bias) => bias + offset,
                None => offset,
            });
        }
        Ok(layer)
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let (columns, rows) = self.thin(ctx);
        let y = if ctx.is_training() && self.dropout > 0.0 {
            let update = dropout(columns.matmul(rows), self.dropout, ctx);
            base.forward(x.clone()) + x.matmul(update)
        } else {
            base.low_rank(x, (columns, rows), 1.0, 0.0, ctx)
        };
        match self.offset(ctx) {
            Some(offset) => y + offset,
            None => y,
        }
    }
}

/// Bank entries of a layer: l, r, and o.
fn left(group: &str) -> String {
    format!("left:{group}")
}

fn right(group: &str) -> String {
    format!("right:{group}")
}

fn offset(path: &str, width: usize) -> String {
    let parent = path.rsplit_once('.').map_or("", |(parent, _)| parent);
    format!("offset:{}:{width}", parent.replace('.', ":"))
}

impl Graft for KadaptationConfig {
    type Adapter = Kadaptation;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        admit_division(self.division, &[layer.d_in, layer.d_out])
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(self.rank * (layer.d_in + layer.d_out))
    }

    fn banks(&self, layers: &[LayerShape]) -> Vec<BankSpec> {
        let rules = Init::Uniform { bound: RULE_BOUND };
        let square = [self.division, self.division];
        let mut banks: Vec<BankSpec> = Vec::new();
        for layer in layers {
            let group = self.rules.group(&layer.path);
            let mut wanted = vec![
                BankSpec::trained(left(group), square, rules),
                BankSpec::trained(right(group), square, rules),
            ];
            if self.bias {
                let name = offset(&layer.path, layer.d_out);
                wanted.push(BankSpec::trained(name, [1, layer.d_out], Init::ZEROS));
            }
            for spec in wanted {
                if !banks.contains(&spec) {
                    banks.push(spec);
                }
            }
        }
        banks
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Kadaptation> {
        let (n, rank) = (self.division, self.rank);
        let (p, q) = (base.d_in() / n, base.d_out() / n);
        let group = self.rules.group(ctx.path);
        Ok(Kadaptation {
            u: Param::from_tensor(ctx.tensor(glorot(p, rank), [n, p, rank], "u")),
            v: Param::from_tensor(ctx.tensor(Init::ZEROS, [n, rank, q], "v")),
            scale: self.scale,
            dropout: self.dropout,
            left: ctx.shared_name(&left(group)),
            right: ctx.shared_name(&right(group)),
            offset: self
                .bias
                .then(|| ctx.shared_name(&offset(ctx.path, base.d_out()))),
        })
    }
}

impl Method for KadaptationConfig {
    const META: MethodMeta = MethodMeta {
        admits: "a linear layer whose widths n divides",
        ..MethodMeta::graft(
            "kadaptation",
            "KAdaptation",
            Family::Kronecker,
            "2203.16329",
            "y = x W + b + c x sum_k (l_k^T r_k) (x) (u_k v_k) + o, l and r shared",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        check_sizes(self.division, self.rank)?;
        check_dropout(self.dropout)
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let small = Self {
            division: common_divisor(layer.d_in, layer.d_out, 8),
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                rules: Sharing::All,
                bias: false,
                scale: 2.0,
                ..small.clone()
            },
            Self {
                rank: 2,
                bias: false,
                scale: 1.0,
                dropout: 0.3,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_core::{Bank, Mode};
    use engraft_linalg::{Matrix, svd};
    use engraft_tensor::{Key, bridge};

    use super::*;

    #[test]
    fn the_update_is_the_sum_of_products_and_has_rank_n() {
        let device = Device::default();
        let draw = |shape: [usize; 3], role: &str| {
            Init::Normal { std: 1.0 }.tensor(shape, &Key::new(3).child(role), &device, DType::F64)
        };
        let config = KadaptationConfig {
            division: 3,
            bias: false,
            scale: 2.0,
            ..KadaptationConfig::default()
        };
        let base = FrozenBase::new(draw([1, 9, 12], "w").reshape([9, 12]) * 0.0, None);
        let mut bank = Bank::default();
        let layer = LayerShape::linear("blocks.0.query", 9, 12, false);
        bank.grow("default", &config.banks(&[layer]), 1, &device, DType::F64);
        let init = InitContext::new(1, "blocks.0.query", "default", &base, &bank);
        let mut adapter = config.init(&base, &init).unwrap();
        adapter.v = Param::from_tensor(draw([3, 1, 4], "v"));

        let ctx = Ctx::new(&bank, Mode::Eval);
        let effective = adapter.effective(&base, &ctx).unwrap();
        let held = |name: &str| bridge::to_matrix(&bank.get(&format!("default/{name}")).unwrap());
        let (left, right) = (held("left:query"), held("right:query"));
        let (u, v) = (
            bridge::to_matrix(&adapter.u.val().reshape([3, 3])),
            bridge::to_matrix(&adapter.v.val().reshape([3, 4])),
        );
        let mut expected = Matrix::zeros(9, 12);
        for k in 0..3 {
            let rule = Matrix::from_fn(3, 3, |i, j| left.get(k, i) * right.get(k, j));
            let fast = Matrix::from_fn(3, 4, |i, j| u.get(k, i) * v.get(k, j));
            expected = expected.add(&rule.kron(&fast).scale(2.0)).unwrap();
        }
        let found = bridge::to_matrix(&effective.weight());
        assert!(found.max_abs_diff(&expected).unwrap() < 1e-16 * 10.0);
        let spectrum = svd(&found).unwrap().s;
        assert!(spectrum[2] > 1e-7 && spectrum[3] < 1e-15, "{spectrum:?}");
    }

    #[test]
    fn the_count_is_the_published_one() {
        // CLIP ViT-B/32, queries and values of 12 blocks: 79,699 with heads of 29,523 on average.
        let config = KadaptationConfig::default();
        let layers: Vec<LayerShape> = (0..12)
            .flat_map(|block| {
                ["query", "value"].map(|name| {
                    LayerShape::linear(format!("blocks.{block}.attention.{name}"), 768, 768, true)
                })
            })
            .collect();
        let own: Counts = layers.iter().map(|layer| config.count(layer)).sum();
        let banks: Counts = config.banks(&layers).iter().map(BankSpec::count).sum();
        assert_eq!(own.trainable, 12 * 2 * 2 * 32 * 24);
        assert_eq!(banks.shared, 12 * 768 + 4 * 32 * 32);
        assert_eq!((own + banks).all_trained() + 29_523, 79_699);
    }
}
