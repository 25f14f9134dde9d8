//! Cartridges.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    AtInit, Counts, Ctx, Family, InitContext, Kind, LayerShape, Method, MethodMeta, Parts, Result,
    SiteAdapter, SiteGraft, SiteKind, SiteShape,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::tokens::{positive, prepend_cache};

/// Configuration of [`Cartridge`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct CartridgeConfig {
    /// n.
    pub virtual_tokens: usize,
    /// How many of them, from the first on, are not trained: the first token of a text draws
    /// attention whatever it says, and training is unstable if it moves.
    pub frozen_tokens: usize,
}

impl Default for CartridgeConfig {
    fn default() -> Self {
        Self {
            virtual_tokens: 128,
            frozen_tokens: 1,
        }
    }
}

/// ([C_K; K], [C_V; V]): the cache of a long text, compressed to n trained keys and values in front of
/// those of every attention layer.
///
/// | symbol | shape | |
/// |---|---|---|
/// | first rows of C = C_K, C_V (`frozen`) | [f, 2 w] | frozen, stored |
/// | the others (`trained`) | [n - f, 2 w] | trained |
///
/// w is the width of the keys: key heads times head width. C starts at N(0, 1); the paper starts it
/// from the cache of the first n tokens of the text, which [`cached`] packs.
///
/// Eyuboglu et al., Cartridges: Lightweight and general-purpose long context representations via
/// self-study, arXiv 2506.06266, section 3.
///
/// # Cost
/// n keys more in every layer.
#[derive(Module, Debug)]
pub struct Cartridge {
    /// The first rows of C, [f, 2 w].
    pub frozen: Option<Param<Tensor<2>>>,
    /// The other rows of C, [n - f, 2 w].
    pub trained: Option<Param<Tensor<2>>>,
    /// n.
    pub virtual_tokens: usize,
}

impl Cartridge {
    /// C, [n, 2 w].
    pub fn cache(&self) -> Tensor<2> {
        let rows = [&self.frozen, &self.trained].into_iter().flatten();
        Tensor::cat(rows.map(|rows| rows.val()).collect(), 0)
    }
}

/// The rows of a cartridge's table, [n, 2 w], from the keys and values [1, heads, tokens, head width]
/// that a layer computed of a text: those of its first n tokens.
pub fn cached(keys: Tensor<4>, values: Tensor<4>, virtual_tokens: usize) -> Tensor<2> {
    let rows = |x: Tensor<4>| -> Tensor<2> {
        let [_, heads, _, width] = x.dims();
        let x = x.narrow(0, 0, 1).narrow(2, 0, virtual_tokens);
        x.swap_dims(1, 2).reshape([virtual_tokens, heads * width])
    };
    Tensor::cat(vec![rows(keys), rows(values)], 1)
}

impl SiteAdapter for Cartridge {
    fn extend_key_value(
        &self,
        keys: Tensor<4>,
        values: Tensor<4>,
        _: &Ctx,
    ) -> (Tensor<4>, Tensor<4>) {
        prepend_cache(self.cache(), keys, values)
    }

    fn positions(&self) -> usize {
        self.virtual_tokens
    }
}

impl SiteGraft for CartridgeConfig {
    type Adapter = Cartridge;

    const SITES: &'static [SiteKind] = &[SiteKind::KeyValue];

    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, site: &SiteShape) -> Counts {
        let frozen = self.frozen_tokens * 2 * site.width;
        Counts::with_frozen(self.virtual_tokens * 2 * site.width - frozen, frozen)
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<Cartridge> {
        let rows = |count: usize, role: &str, trained: bool| {
            let rows = ctx.tensor(Init::Normal { std: 1.0 }, [count, 2 * site.width], role);
            (count > 0).then(|| Param::from_tensor(rows).set_require_grad(trained))
        };
        let free = self.virtual_tokens - self.frozen_tokens;
        Ok(Cartridge {
            frozen: rows(self.frozen_tokens, "frozen", false),
            trained: rows(free, "trained", true),
            virtual_tokens: self.virtual_tokens,
        })
    }
}

impl Method for CartridgeConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        peft: Some("CARTRIDGE"),
        mergeable: false,
        lengthens: true,
        at_init: AtInit::NotIdentity,
        admits: "any attention layer",
        ..MethodMeta::graft(
            "cartridge",
            "Cartridge",
            Family::Prompt,
            "2506.06266",
            "([C_K; K], [C_V; V]) in every attention layer, the first rows of C frozen",
        )
    };

    fn parts(&self) -> Parts {
        Parts::site(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive("virtual-tokens", self.virtual_tokens)?;
        if self.frozen_tokens > self.virtual_tokens {
            return Err(format!(
                "frozen-tokens {}: expected at most virtual-tokens, which is {}",
                self.frozen_tokens, self.virtual_tokens
            ));
        }
        Ok(())
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let example = |virtual_tokens, frozen_tokens| Self {
            virtual_tokens,
            frozen_tokens,
        };
        vec![example(3, 1), example(2, 0)]
    }
}

#[cfg(test)]
mod tests {
    use engraft_tensor::bridge::values;

    use super::*;
    use crate::testing::draw;

    #[test]
    fn the_cache_of_a_text_is_put_back_where_it_was() {
        let (keys, cache) = (draw([1, 2, 4, 3], "keys"), draw([1, 2, 4, 3], "values"));
        let table = cached(keys.clone(), cache.clone(), 3);
        assert_eq!(table.dims(), [3, 12]);
        let nothing = |x: &Tensor<4>| x.clone().narrow(2, 3, 1);
        let (k, v) = prepend_cache(table, nothing(&keys), nothing(&cache));
        assert_eq!(values(&k), values(&keys));
        assert_eq!(values(&v), values(&cache));
    }
}
