//! The same grafts on any Burn module, through Burn's own per-parameter hook.
//!
//! Burn evaluates `weight` through an attached `Reparameterization`, so a method with a weight form
//! works on a third-party model without editing it. What the hook cannot do is refused here:
//! methods that change the bias, need a bank, or are not grafts.

use burn::module::{Module, ModuleVisitor, Param, Reparameterization, Reparameterizer};
use burn::tensor::Tensor;

use crate::adapter::{AnyAdapter, InitContext};
use crate::bank::Bank;
use crate::base::FrozenBase;
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::method::AnyMethod;
use crate::params;
use crate::shape::LayerShape;
use crate::targets::Targets;

/// Name of the level that the hook adds to parameter paths: `fc1.weight.engraft.adapter.a`.
const LEVEL: &str = "engraft";

/// An adapter on a weight [d_in, d_out] of a third-party module.
#[derive(Module, Debug)]
pub struct WeightAdapter {
    adapter: AnyAdapter,
    rebased: Option<FrozenBase>,
}

impl Reparameterization for WeightAdapter {
    const NAME: &'static str = LEVEL;

    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        let dims = base.dims();
        let given = FrozenBase::new(base.reshape([dims[0] as i64, -1]), None);
        let base = self.rebased.as_ref().unwrap_or(&given);
        match self.adapter.effective(base, &Ctx::default()) {
            Ok(layer) => layer.weight().reshape(dims),
            Err(error) => {
                panic!("an adapter that was attached to a weight lost its weight form: {error}")
            }
        }
    }
}

/// Attaches a graft to the rank-2 weights of any Burn module and freezes everything else. Targets
/// name layers, that is, parameter paths without their last component (`fc1` for `fc1.weight`).
///
/// # Errors
/// A method without a weight form of the weight alone, a module that is adapted already, targets
/// that match nothing, a layer that the method does not admit.
pub fn reparameterize<M: Module>(
    module: M,
    method: &AnyMethod,
    targets: &Targets,
    seed: u64,
) -> Result<M> {
    let meta = method.meta();
    let refuse = |reason: &str| {
        Err(Error::NoWeightForm {
            method: meta.id.to_owned(),
            path: "a third-party module".to_owned(),
            reason: reason.to_owned(),
        })
    };
    let Some(graft) = method
        .parts()
        .graft
        .clone()
        .filter(|_| method.parts().site.is_none())
    else {
        return refuse("it is not a graft on layers alone; write the model with slots");
    };
    if meta.changes_bias {
        return refuse("it changes the bias too; write the model with slots");
    }
    let layers = matrices(&module)?;
    if !graft.banks(&layers).is_empty() {
        return refuse("it shares state between layers; write the model with slots");
    }
    let paths: Vec<&str> = layers.iter().map(|layer| layer.path.as_str()).collect();
    let chosen: Vec<String> = targets
        .select(&paths, "layer", |_| true)?
        .into_iter()
        .map(str::to_owned)
        .collect();
    let mut plan = Vec::new();
    for layer in layers.iter().filter(|layer| chosen.contains(&layer.path)) {
        let method = method.with(targets.overrides(&layer.path)?)?;
        let graft = method
            .parts()
            .graft
            .clone()
            .expect("the same kind of method");
        graft
            .admits(layer)
            .map_err(|reason| method.inadmissible(layer, reason))?;
        plan.push((layer.path.clone(), method));
    }
    let frozen = params::set_trained(module, |_| Some(false));
    let mut failure = None;
    let adapted = frozen.apply_reparameterization(Attach {
        plan: &plan,
        seed,
        failure: &mut failure,
    });
    match failure {
        Some(error) => Err(error),
        None => Ok(adapted),
    }
}

struct Attach<'a> {
    plan: &'a [(String, AnyMethod)],
    seed: u64,
    failure: &'a mut Option<Error>,
}

impl Reparameterizer for Attach<'_> {
    type Reparam = WeightAdapter;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<WeightAdapter>) {
        let layer = layer_of(path);
        let Some((_, method)) = self
            .plan
            .iter()
            .find(|(chosen, _)| D == 2 && chosen == layer)
        else {
            return (param, None);
        };
        let dims = param.base().dims();
        let base = FrozenBase::new(param.base().reshape([dims[0] as i64, -1]), None);
        let bank = Bank::default();
        let graft = method.parts().graft.as_ref().expect("checked before");
        match graft
            .init(
                &base,
                &InitContext::new(self.seed, layer, "default", &base, &bank),
            )
            .and_then(|adapter| {
                // A form that fails once would fail inside a forward pass: find out now.
                let rebased = adapter.rebase(&base);
                let effective =
                    adapter.effective(rebased.as_ref().unwrap_or(&base), &Ctx::default())?;
                if effective.bias.is_some() {
                    let reason =
                        "this configuration adds a bias; write the model with slots".to_owned();
                    return Err(Error::NoWeightForm {
                        method: method.meta().id.to_owned(),
                        path: layer.to_owned(),
                        reason,
                    });
                }
                Ok(WeightAdapter { adapter, rebased })
            }) {
            Ok(adapter) => (param, Some(adapter)),
            Err(error) => {
                self.failure.get_or_insert(error);
                (param, None)
            }
        }
    }
}

fn layer_of(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(layer, _)| layer)
}

/// The rank-2 parameters of a module as layers.
fn matrices<M: Module>(module: &M) -> Result<Vec<LayerShape>> {
    #[derive(Default)]
    struct Matrices {
        path: Vec<String>,
        layers: Vec<LayerShape>,
        adapted: Option<String>,
    }
    impl ModuleVisitor for Matrices {
        fn enter_module(&mut self, name: &str, container: &str) {
            if container == "Reparameterization" {
                self.adapted = Some(self.path.join("."));
            }
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let [d_in, d_out] = param.lazy_shape().to_vec()[..] {
                self.layers.push(LayerShape::linear(
                    layer_of(&self.path.join(".")),
                    d_in,
                    d_out,
                    false,
                ));
            }
        }
    }
    let mut found = Matrices::default();
    module.visit(&mut found);
    match found.adapted {
        // Burn would wrap the adapter's own factors and drop the second adapter without a word.
        Some(path) => Err(Error::AlreadyAdapted {
            path,
            name: LEVEL.to_owned(),
        }),
        None => Ok(found.layers),
    }
}
