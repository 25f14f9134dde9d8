//! SSF: scaling and shifting features.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, AtInit, Counts, Ctx, Family, FrozenBase, Graft, InitContext, Kind, LayerShape, Method,
    MethodMeta, Parts, Result, SiteAdapter, SiteGraft, SiteKind, SiteShape,
};
use engraft_tensor::Init;
use engraft_tensor::ops::scaled_columns;
use serde::{Deserialize, Serialize};

/// Configuration of [`Ssf`]. Default as in the authors' code: standard deviation 0.02.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SsfConfig {
    /// Standard deviation of the first gamma (around one) and beta (around zero).
    pub std: f64,
}

impl Default for SsfConfig {
    fn default() -> Self {
        Self { std: 0.02 }
    }
}

/// y = gamma . (x W + b) + beta behind a linear layer, h' = gamma . h + beta behind a norm or an
/// embedding.
///
/// | symbol | shape | |
/// |---|---|---|
/// | gamma | `[width]` | trained, N(1, 0.02^2) at first |
/// | beta | `[width]` | trained, N(0, 0.02^2) at first |
///
/// Lian et al., Scaling & Shifting Your Features, arXiv 2210.08823, section 3.2. The method acts
/// behind every operation: a graft on the linear layers and an adapter at the hidden sites. All of it
/// can be taken up by what is in front (`Adapted::fold`): weight and bias of a layer, gain and offset
/// of a norm.
#[derive(Module, Debug)]
pub struct Ssf {
    /// gamma, `[width]`.
    pub gamma: Param<Tensor<1>>,
    /// beta, `[width]`.
    pub beta: Param<Tensor<1>>,
}

impl Ssf {
    fn random(width: usize, std: f64, ctx: &InitContext) -> Self {
        let draw = |role: &str| ctx.tensor(Init::Normal { std }, [width], role);
        Self {
            gamma: Param::from_tensor(draw("gamma") + 1.0),
            beta: Param::from_tensor(draw("beta")),
        }
    }

    fn apply(&self, y: Tensor<2>) -> Tensor<2> {
        scaled_columns(y, self.gamma.val(), Some(self.beta.val()))
    }
}

impl Adapter for Ssf {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        let (gamma, beta) = (self.gamma.val(), self.beta.val());
        let bias = match &base.bias {
            Some(bias) => bias.clone() * gamma.clone() + beta,
            None => beta,
        };
        Ok(FrozenBase::new(
            scaled_columns(base.weight(), gamma, None),
            Some(bias),
        ))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        self.apply(base.forward(x))
    }
}

impl SiteAdapter for Ssf {
    fn diagonal(&self) -> Option<[Tensor<1>; 2]> {
        Some([self.gamma.val(), self.beta.val()])
    }

    fn wrap(&self, _: Tensor<2>, output: Tensor<2>, _: &Ctx) -> Tensor<2> {
        self.apply(output)
    }
}

impl Graft for SsfConfig {
    type Adapter = Ssf;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(2 * layer.d_out)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Ssf> {
        Ok(Ssf::random(base.d_out(), self.std, ctx))
    }
}

impl SiteGraft for SsfConfig {
    type Adapter = Ssf;

    const SITES: &'static [SiteKind] = &[SiteKind::Hidden];

    /// What leaves a block is a sum, behind no operation of the paper's list.
    fn takes(&self, site: &SiteShape) -> bool {
        !site.leaves_block()
    }

    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, site: &SiteShape) -> Counts {
        Counts::trained(2 * site.width)
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<Ssf> {
        Ok(Ssf::random(site.width, self.std, ctx))
    }
}

impl Method for SsfConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Graft, Kind::Site],
        // What it does behind a norm has no layer to be merged into; `Adapted::fold` takes it up.
        mergeable: false,
        changes_bias: true,
        at_init: AtInit::NotIdentity,
        admits: "any linear layer, any hidden state",
        ..MethodMeta::graft(
            "ssf",
            "SSF",
            Family::Features,
            "2210.08823",
            "y = gamma . (x W + b) + beta; h' = gamma . h + beta",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone()).and(Parts::site(self.clone()))
    }

    fn validate(&self) -> Result<(), String> {
        if self.std.is_finite() && self.std > 0.0 {
            Ok(())
        } else {
            Err(format!("std {}: expected a positive number", self.std))
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_core::{AnyMethod, Bank, Injection, ModelShapes, Part, Plan};
    use engraft_tensor::{Key, bridge};

    use super::*;

    #[test]
    fn forms_agree_with_and_without_a_bias() {
        let draw = |shape: [usize; 2], role: &str| {
            Init::Normal { std: 1.0 }.tensor(
                shape,
                &Key::new(1).child(role),
                &Device::default(),
                DType::F64,
            )
        };
        for bias in [None, Some(draw([1, 3], "b").reshape([3]))] {
            let base = FrozenBase::new(draw([5, 3], "w"), bias);
            let adapter = Graft::init(
                &SsfConfig { std: 0.5 },
                &base,
                &InitContext::new(0, "fc", "default", &base, &Bank::default()),
            )
            .unwrap();
            let (x, ctx) = (draw([4, 5], "x"), Ctx::default());
            let difference = adapter.forward(x.clone(), &base, &ctx)
                - adapter.effective(&base, &ctx).unwrap().forward(x);
            assert!(bridge::to_matrix(&difference).max_abs() < 1e-13);
        }
    }

    #[test]
    fn counts_are_the_published_ones() {
        // ViT-B/16: 205,824 without the head: 0.97M on ImageNet, 0.28M on CIFAR-100.
        let mut vit = ModelShapes::default();
        vit.push_linear("patch", 768, 768, true, Part::Embedding);
        for block in 0..12 {
            for (name, d_in, d_out) in [
                ("qkv", 768, 2304),
                ("proj", 768, 768),
                ("fc1", 768, 3072),
                ("fc2", 3072, 768),
            ] {
                vit.push_linear(
                    &format!("blocks.{block}.{name}"),
                    d_in,
                    d_out,
                    true,
                    Part::Body,
                );
            }
            vit.push_site(format!("blocks.{block}.norm1"), SiteKind::Hidden, 768);
            vit.push_site(format!("blocks.{block}.norm2"), SiteKind::Hidden, 768);
        }
        vit.push_site("norm", SiteKind::Hidden, 768);
        vit.push_linear("head", 768, 1000, true, Part::Head);
        let plan = Plan::new(
            &AnyMethod::new(&SsfConfig::default()).unwrap(),
            &vit,
            &Injection::default().with_head(),
        )
        .unwrap();
        assert_eq!(plan.counts().without_head(), 205_824);
        assert_eq!(plan.counts().all_trained(), 974_824);
    }
}
