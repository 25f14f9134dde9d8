//! AdaLink: a low-rank residual on the embedded input, one for each modality.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Activation, Counts, Ctx, Family, InitContext, Kind, LayerShape, Method, MethodMeta, Parts,
    Result, SiteAdapter, SiteGraft, SiteKind, SiteShape, positive_rank,
};
use engraft_tensor::Init;
use engraft_tensor::ops::matmul;
use serde::{Deserialize, Serialize};

/// Configuration of [`AdaLink`]. Default: rank 64, the paper's for PaLI-X.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct AdaLinkConfig {
    /// r.
    pub rank: usize,
    /// Modalities in one sequence, told apart by the segments of the text.
    pub modalities: usize,
    /// f.
    pub activation: Activation,
}

impl Default for AdaLinkConfig {
    fn default() -> Self {
        Self {
            rank: 64,
            modalities: 1,
            activation: Activation::Identity,
        }
    }
}

/// e' = e + f(e D_m) U_m for the embedding e of a token of modality m, before the first block.
///
/// | symbol | shape | |
/// |---|---|---|
/// | D_m (`down`) | [d, r] | trained, U(-1/sqrt(d), 1/sqrt(d)) at first |
/// | U_m (`up`) | [r, d] | trained, zero at first |
///
/// Wang et al., Non-Intrusive Adaptation: Input-Centric Parameter-efficient Fine-Tuning for Versatile
/// Multimodal Modeling, arXiv 2310.12100, section 3. It acts at a text model's embedded tokens and at
/// the embedded patches of an image model: models of one modality have one adapter each. Where one
/// sequence holds several, `modalities` gives the number, and the segment of a token (0, 1, ...) is its
/// modality; tokens without a segment are of the first, virtual tokens in front of none.
///
/// There is no published code. That projections have no offsets follows from the published count
/// (1.05M for PaLI-X, d = 4096, two modalities: 4 d r with r = 64); f is assumed to be the identity, and
/// `activation` gives the paper's two-layer network another one. It costs O(d r) a token and modality.
#[derive(Module, Debug)]
pub struct AdaLink {
    /// The adapters by modality.
    pub links: Vec<Link>,
    /// f.
    #[module(skip)]
    pub activation: Activation,
}

/// The adapter of one modality.
#[derive(Module, Debug)]
pub struct Link {
    /// D, [d, r].
    pub down: Param<Tensor<2>>,
    /// U, [r, d].
    pub up: Param<Tensor<2>>,
}

impl AdaLink {
    /// Embeddings [batch, tokens, d] with their residuals.
    fn apply(&self, e: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        let [batch, tokens, d] = e.dims();
        let flat = e.clone().reshape([batch * tokens, d]);
        let residual = |link: &Link| {
            let narrow = self.activation.apply(matmul(flat.clone(), link.down.val()));
            matmul(narrow, link.up.val()).reshape([batch, tokens, d])
        };
        let segments = ctx.own_text().and_then(|text| text.segments);
        let (Some(segments), 2..) = (segments, self.links.len()) else {
            return e + residual(&self.links[0]);
        };
        let known = segments.dims()[1];
        // What passes here may be the end of the text only, or begin with virtual tokens.
        let own = known.min(tokens);
        let segments = segments.narrow(1, known - own, own);
        let lead = tokens - own;
        let links = self.links.iter().enumerate();
        links.fold(e.clone(), |sum, (modality, link)| {
            let of_it = segments.clone().equal_elem(modality as i64).float();
            let of_it = of_it.cast(e.dtype()).reshape([batch, own, 1]);
            let of_it = match lead {
                0 => of_it,
                lead => {
                    let none = e.clone().narrow(1, 0, lead).narrow(2, 0, 1).zeros_like();
                    Tensor::cat(vec![none, of_it], 1)
                }
            };
            sum + residual(link) * of_it
        })
    }
}

impl SiteAdapter for AdaLink {
    fn wrap(&self, _: Tensor<2>, output: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        let [rows, d] = output.dims();
        let [batch, tokens] = ctx.sequences().unwrap_or([1, rows]);
        self.apply(output.reshape([batch, tokens, d]), ctx)
            .reshape([rows, d])
    }

    fn extend_sequence(&self, tokens: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        self.apply(tokens, ctx)
    }
}

impl SiteGraft for AdaLinkConfig {
    type Adapter = AdaLink;

    const SITES: &'static [SiteKind] = &[SiteKind::Prompt, SiteKind::Hidden];

    /// Embedded text, and hidden sites behind an embedding: `embedding`, `patch_embeddings.output`.
    fn takes(&self, site: &SiteShape) -> bool {
        let mut ends = site.path.rsplit('.').filter(|part| *part != "output");
        let last = ends.next().unwrap_or_default();
        site.kind == SiteKind::Prompt || last.ends_with("embedding") || last.ends_with("embeddings")
    }

    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, site: &SiteShape) -> Counts {
        Counts::trained(self.modalities * 2 * site.width * self.rank)
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<AdaLink> {
        let (d, r) = (site.width, self.rank);
        let uniform = Init::KaimingUniform { fan_in: d };
        let link = |modality: usize| Link {
            down: Param::from_tensor(ctx.tensor(uniform, [d, r], &format!("down.{modality}"))),
            up: Param::from_tensor(ctx.tensor(Init::ZEROS, [r, d], "up")),
        };
        Ok(AdaLink {
            links: (0..self.modalities).map(link).collect(),
            activation: self.activation,
        })
    }
}

impl Method for AdaLinkConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        mergeable: false,
        admits: "embedded tokens or patches",
        ..MethodMeta::graft(
            "adalink",
            "AdaLink",
            Family::Features,
            "2310.12100",
            "e' = e + f(e D_m) U_m, e a token's embedding, m its modality",
        )
    };

    fn parts(&self) -> Parts {
        Parts::site(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        match self.modalities {
            0 => Err("modalities 0: expected at least 1".to_owned()),
            _ => Ok(()),
        }
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        // Several modalities need a text that tells them apart, which the suite's model has not.
        [Activation::Identity, Activation::Gelu]
            .map(|activation| Self {
                rank: 2,
                modalities: 1,
                activation,
            })
            .to_vec()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Int, TensorData};
    use engraft_core::{AnyMethod, Bank, Injection, ModelShapes, Plan, Text};

    use super::*;
    use crate::testing::{any_layer, draw, largest};

    fn site(width: usize) -> SiteShape {
        SiteShape {
            path: "model.sites.prompt".to_owned(),
            kind: SiteKind::Prompt,
            width,
        }
    }

    #[test]
    fn each_segment_has_its_own_residual_and_virtual_tokens_have_none() {
        let config = AdaLinkConfig {
            rank: 2,
            modalities: 2,
            ..AdaLinkConfig::default()
        };
        let (base, bank) = (any_layer(), Bank::default());
        let ctx = InitContext::new(1, "p", "default", &base, &bank);
        let mut adapter = config.init(&site(5), &ctx).unwrap();
        for (modality, link) in adapter.links.iter_mut().enumerate() {
            link.up = Param::from_tensor(draw([2, 5], modality as u64, "up"));
        }
        let e = draw([1, 5, 5], 3, "e");
        let residual = |at: usize, modality: usize| {
            let link = &adapter.links[modality];
            let e: Tensor<2> = e.clone().narrow(1, at, 1).squeeze_dim(1);
            e.matmul(link.down.val()).matmul(link.up.val())
        };
        // A virtual token, then text and image patches by turns.
        let segments = [0, 1, 1, 0];
        let ids = Tensor::<2, Int>::zeros([1, 4], &Device::default());
        let data = TensorData::new(segments.map(|s: i64| s).to_vec(), [1, 4]);
        let text = Text::new(ids).with_segments(Tensor::from_data(data, &Device::default()));
        let ctx = Ctx::default().with_text(&text);
        let change = adapter.extend_sequence(e.clone(), &ctx) - e.clone();
        let at = |at: usize| change.clone().narrow(1, at, 1).squeeze_dim::<2>(1);
        assert_eq!(largest(at(0)), 0.0);
        for (k, segment) in segments.into_iter().enumerate() {
            assert!(largest(at(k + 1) - residual(k + 1, segment as usize)) < 1e-13);
        }
        // Without segments everything is of the first modality, virtual tokens too.
        let change = adapter.extend_sequence(e.clone(), &Ctx::default()) - e.clone();
        let first: Tensor<2> = change.narrow(1, 0, 1).squeeze_dim(1);
        assert!(largest(first - residual(0, 0)) < 1e-13);
    }

    #[test]
    fn it_goes_to_embeddings_and_the_count_is_the_published_one() {
        // PaLI-X: 1.05M, an adapter for text and one for images.
        let mut shapes = ModelShapes::default();
        shapes.push_site("text.sites.prompt", SiteKind::Prompt, 4096);
        shapes.push_site("text.layers.0.norm.output", SiteKind::Hidden, 4096);
        shapes.push_site("image.patch_embeddings.output", SiteKind::Hidden, 4096);
        shapes.push_site("image.layers.0.sites.output", SiteKind::Hidden, 4096);
        let method = AnyMethod::new(&AdaLinkConfig::default()).unwrap();
        let plan = Plan::new(&method, &shapes, &Injection::default()).unwrap();
        assert_eq!(plan.sites.len(), 2);
        assert_eq!(plan.counts().all_trained(), 1_048_576);
        let both = AdaLinkConfig {
            modalities: 2,
            ..AdaLinkConfig::default()
        };
        assert_eq!(both.count(&site(4096)).trainable, 1_048_576);
    }
}
