//! Invertible adapters at the embeddings.

use burn::module::Module;
use burn::tensor::Tensor;
use engraft_core::{
    AtInit, BankSpec, Counts, Ctx, Error, Family, InitContext, Kind, LayerShape, Method,
    MethodMeta, Parts, Result, SiteAdapter, SiteGraft, SiteKind, SiteShape,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::Activation;

/// First values of the weights: N(0, 0.02^2), BERT's.
const STD: f64 = 0.02;

/// Configuration of [`Invertible`]. Defaults: the map behind a model's embeddings, the inverse in
/// front of a masked language model's output embedding, a reduction factor of 2, ReLU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct InvertibleConfig {
    /// Ends of the paths of the sites that get the map. Decoders, which have no site behind their
    /// embeddings, take `sites.prompt`.
    pub input: Vec<String>,
    /// Ends of the paths of the sites that get the inverse, where the model has them. Decoders take
    /// their last norm, such as `ln_f.output` or `model.norm.output`.
    pub output: Vec<String>,
    /// Width of a half over that of the hidden layer between.
    pub reduction_factor: usize,
    /// f.
    pub activation: Activation,
}

impl Default for InvertibleConfig {
    fn default() -> Self {
        let owned = |names: [&str; 2]| names.map(str::to_owned).to_vec();
        Self {
            input: owned(["embedding", "embeddings.LayerNorm.output"]),
            output: owned([
                "predictions.transform.LayerNorm.output",
                "lm_head.layer_norm.output",
            ]),
            reduction_factor: 2,
            activation: Activation::Relu,
        }
    }
}

/// y_1 = x_1 + F(x_2), y_2 = x_2 + G(y_1) behind the embeddings, and in front of the output embedding
/// its inverse x_2 = y_2 - G(y_1), x_1 = y_1 - F(x_2), with F(h) = f(h A + a) B + b and G likewise.
///
/// | symbol | shape | |
/// |---|---|---|
/// | x_1, x_2 | [tokens, d / 2], [tokens, d - d / 2] | halves of the hidden state |
/// | A, a, B, b of F | [d_2, d_2 / r], [1, d_2 / r], [d_2 / r, d_1], [1, d_1] | bank, trained |
/// | A, a, B, b of G | [d_1, d_1 / r], [1, d_1 / r], [d_1 / r, d_2], [1, d_2] | bank, trained |
///
/// Pfeiffer et al., MAD-X: An Adapter-Based Framework for Multi-Task Cross-Lingual Transfer, arXiv
/// 2005.00052, section 3.3: the coupling of NICE (Dinh et al., arXiv 1410.8516); the AdapterHub library
/// gives the starting values (weights N(0, 0.02^2), offsets zero). Both sites use the same weights,
/// which therefore live in the bank.
#[derive(Module, Debug)]
pub struct Invertible {
    #[module(skip)]
    names: Vec<String>,
    #[module(skip)]
    inverse: bool,
    #[module(skip)]
    activation: Activation,
}

impl Invertible {
    /// F or G of its half.
    fn subnet(&self, which: usize, h: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        let shared = |index: usize| ctx.shared(&self.names[4 * which + index]);
        let narrow = self.activation.apply(h.matmul(shared(0)) + shared(1));
        narrow.matmul(shared(2)) + shared(3)
    }

    fn apply(&self, x: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        let d = x.dims()[1];
        let [first, second] = [(0, d / 2), (d / 2, d - d / 2)]
            .map(|(start, width)| x.clone().narrow(1, start, width));
        let (first, second) = if self.inverse {
            let second = second - self.subnet(1, first.clone(), ctx);
            (first - self.subnet(0, second.clone(), ctx), second)
        } else {
            let first = first + self.subnet(0, second.clone(), ctx);
            let change = self.subnet(1, first.clone(), ctx);
            (first, second + change)
        };
        Tensor::cat(vec![first, second], 1)
    }
}

impl SiteAdapter for Invertible {
    fn wrap(&self, _: Tensor<2>, output: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        self.apply(output, ctx)
    }

    fn extend_sequence(&self, tokens: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        let [batch, length, width] = tokens.dims();
        let flat = tokens.reshape([batch * length, width]);
        self.apply(flat, ctx).reshape([batch, length, width])
    }
}

impl InvertibleConfig {
    /// Entries of the bank with their shapes: A, a, B, b of F, then of G.
    fn entries(&self, d: usize) -> [(&'static str, [usize; 2]); 8] {
        let (first, second) = (d / 2, d - d / 2);
        let narrow = |half: usize| (half / self.reduction_factor).max(1);
        let (f, g) = (narrow(second), narrow(first));
        [
            ("f_in", [second, f]),
            ("f_in_bias", [1, f]),
            ("f_out", [f, first]),
            ("f_out_bias", [1, first]),
            ("g_in", [first, g]),
            ("g_in_bias", [1, g]),
            ("g_out", [g, second]),
            ("g_out_bias", [1, second]),
        ]
    }
}

/// Whether a path is one of these names or ends in `.name`.
fn is_among(path: &str, names: &[String]) -> bool {
    let ends = |name: &String| {
        path.strip_suffix(name.as_str())
            .is_some_and(|front| front.is_empty() || front.ends_with('.'))
    };
    names.iter().any(ends)
}

impl SiteGraft for InvertibleConfig {
    type Adapter = Invertible;

    const SITES: &'static [SiteKind] = &[SiteKind::Hidden, SiteKind::Prompt];

    fn takes(&self, site: &SiteShape) -> bool {
        is_among(&site.path, &self.input) || is_among(&site.path, &self.output)
    }

    fn admits(&self, site: &SiteShape) -> Result<(), String> {
        if site.width < 2 {
            return Err(format!("width {}: expected two halves", site.width));
        }
        Ok(())
    }

    fn count(&self, _: &SiteShape) -> Counts {
        Counts::default()
    }

    fn banks(&self, sites: &[SiteShape]) -> Vec<BankSpec> {
        let Some(site) = sites.first() else {
            return Vec::new();
        };
        let spec = |(name, shape): (&str, [usize; 2])| {
            let init = if name.ends_with("bias") {
                Init::ZEROS
            } else {
                Init::Normal { std: STD }
            };
            BankSpec::trained(name, shape, init)
        };
        self.entries(site.width).map(spec).to_vec()
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<Invertible> {
        let entries = self.entries(site.width);
        let names = entries.map(|(name, _)| ctx.shared_name(name)).to_vec();
        let [_, width] = ctx.bank.get(&names[3]).map_or([1, 0], |bias| bias.dims());
        if width != site.width / 2 {
            return Err(Error::Unsupported(format!(
                "{}: the map and its inverse share weights, but this site has width {} where another has halves of {width}",
                site.path, site.width
            )));
        }
        Ok(Invertible {
            names,
            inverse: is_among(&site.path, &self.output),
            activation: self.activation,
        })
    }
}

impl Method for InvertibleConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        mergeable: false,
        at_init: AtInit::Bounded(0.5),
        admits: "hidden states of width 2 or more at the embeddings",
        ..MethodMeta::graft(
            "invertible",
            "Invertible adapter (MAD-X)",
            Family::Bottleneck,
            "2005.00052",
            "y_1 = x_1 + F(x_2), y_2 = x_2 + G(y_1); its inverse in front of the output embedding",
        )
    };

    fn parts(&self) -> Parts {
        Parts::site(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        if self.reduction_factor == 0 {
            return Err("reduction-factor 0: expected at least 1".to_owned());
        }
        Ok(())
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let at = |input: &str, output: &[&str]| Self {
            input: vec![input.to_owned()],
            output: output.iter().map(|name| (*name).to_owned()).collect(),
            activation: Activation::Tanh,
            ..Self::default()
        };
        let mut all = Vec::new();
        if layer.d_in > 1 {
            all.push(at("embedding", &[]));
        }
        if layer.d_out > 1 {
            all.push(Self {
                reduction_factor: 1,
                activation: Activation::Gelu,
                ..at("sites.norm", &["block.sites.output"])
            });
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_core::{Bank, FrozenBase, Mode};

    use super::*;
    use crate::testing::{apart, draw};

    #[test]
    fn behind_its_inverse_it_is_the_identity() {
        for d in [2, 5, 8] {
            let config = InvertibleConfig {
                output: vec!["ln_f.output".to_owned()],
                ..InvertibleConfig::default()
            };
            let site = |path: &str| SiteShape {
                path: path.to_owned(),
                kind: SiteKind::Hidden,
                width: d,
            };
            let specs = config.banks(&[site("embedding")]);
            let mut bank = Bank::default();
            bank.grow("en", &specs, 1, &Device::default(), DType::F64);
            for spec in &specs {
                bank.insert(
                    &format!("en/{}", spec.name),
                    draw(spec.shape, &spec.name),
                    true,
                );
            }
            let base = FrozenBase::new(draw([2, 2], "base"), None);
            let adapter = |path: &str| {
                let ctx = InitContext::new(0, path, "en", &base, &bank);
                config.init(&site(path), &ctx).unwrap()
            };
            let ctx = Ctx::new(&bank, Mode::Eval);
            let x = draw([6, d], "x");
            let there = adapter("embedding").wrap(x.clone(), x.clone(), &ctx);
            assert!(apart(&there, &x) > 1e-3);
            let back = adapter("transformer.ln_f.output").wrap(there.clone(), there, &ctx);
            assert!(apart(&back, &x) < 1e-10);
            let other = SiteShape {
                width: d + 2,
                ..site("ln_f.output")
            };
            let ctx = InitContext::new(0, "ln_f.output", "en", &base, &bank);
            assert!(config.init(&other, &ctx).is_err());
        }
    }

    #[test]
    fn counts_are_those_of_the_library() {
        // d = 768: two networks of 384 -> 192 -> 384.
        let site = SiteShape {
            path: "embedding".to_owned(),
            kind: SiteKind::Hidden,
            width: 768,
        };
        let banks = InvertibleConfig::default().banks(&[site]);
        let shared: usize = banks.iter().map(|bank| bank.count().shared).sum();
        assert_eq!(shared, 2 * (384 * 192 + 192 + 192 * 384 + 384));
    }
}
