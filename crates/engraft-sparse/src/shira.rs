//! SHiRA: sparse high-rank adapters.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Needs, Parts, Result, positive_rank,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::entries::{Entries, check_density, stored};
use crate::mask::Mask;

/// Configuration of [`Shira`]. Defaults: a random mask with as many entries as a LoRA of rank 32
/// has (PEFT), or the paper's `density` of 0.01 to 0.02 where that is given; s = 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ShiraConfig {
    /// The budget as a rank r: r (d_in + d_out) entries are trained.
    pub rank: usize,
    /// The budget as a share of the weight's entries, in (0, 1]; takes the place of `rank`.
    pub density: Option<f64>,
    /// `random`, `weight-magnitude`, `structured`, `gradient` or `snip`.
    pub mask: Mask,
    /// s.
    pub scale: f64,
}

impl Default for ShiraConfig {
    fn default() -> Self {
        Self {
            rank: 32,
            density: None,
            mask: Mask::Random,
            scale: 1.0,
        }
    }
}

impl ShiraConfig {
    /// Number of trained entries.
    fn entries(&self, d_in: usize, d_out: usize) -> usize {
        match self.density {
            Some(density) => ((density * (d_in * d_out) as f64).round() as usize).max(1),
            None => self.rank * (d_in + d_out),
        }
    }
}

/// W' = W + s S, with S zero but for fixed positions.
///
/// | symbol | shape | |
/// |---|---|---|
/// | `values` | `[n]` | trained entries of S, zero at first |
/// | `positions` | `[n]` | place i d_out + j of each, frozen, in the adapter file |
///
/// Bhardwaj et al., Sparse High Rank Adapters, arXiv 2406.13175, section 3. The masks
/// `gradient` and `snip` need a calibration pass.
///
/// The activation form ([`sparse_linear`](engraft_tensor::ops::sparse_linear)) adds n values into
/// copies of panels of W and multiplies; the gradient of the values is n products of two columns,
/// and no gradient of W is formed. Moving the n inputs of every token to the outputs would take
/// longer than the copies but for a few tokens.
#[derive(Module, Debug)]
pub struct Shira {
    /// Entries of S, `[n]`.
    pub values: Param<Tensor<1>>,
    /// Positions i d_out + j, `[n]`.
    pub positions: Param<Tensor<1, Int>>,
    /// s.
    pub scale: f64,
}

impl Shira {
    /// An adapter from its values and the positions i d_out + j they belong to.
    pub fn new(values: Tensor<1>, positions: &[usize], scale: f64) -> Self {
        Self {
            positions: stored(positions, &values.device()),
            values: Param::from_tensor(values),
            scale,
        }
    }

    fn entries(&self) -> Entries {
        Entries {
            positions: self.positions.val(),
            values: self.values.val(),
            scaling: self.scale,
        }
    }
}

impl Adapter for Shira {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        Ok(self.entries().added(base))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        self.entries().forward(x, base)
    }
}

impl Graft for ShiraConfig {
    type Adapter = Shira;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        let (entries, all) = (
            self.entries(layer.d_in, layer.d_out),
            layer.d_in * layer.d_out,
        );
        if entries > all {
            return Err(format!(
                "rank {} asks for {entries} of {all} entries: expected a rank of at most {}, or a density",
                self.rank,
                all / (layer.d_in + layer.d_out)
            ));
        }
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let entries = self.entries(layer.d_in, layer.d_out);
        Counts::with_frozen(entries, entries)
    }

    fn needs(&self) -> Needs {
        self.mask.needs()
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Shira> {
        let entries = self.entries(base.d_in(), base.d_out());
        let positions = self.mask.positions(base, entries, ctx)?;
        Ok(Shira::new(
            ctx.tensor(Init::ZEROS, [entries], "values"),
            &positions,
            self.scale,
        ))
    }
}

impl Method for ShiraConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("SHIRA"),
        admits: "a linear layer with at least rank (d_in + d_out) entries; any with a density",
        ..MethodMeta::graft(
            "shira",
            "SHiRA",
            Family::Sparse,
            "2406.13175",
            "W' = W + s S, S zero but for fixed positions",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        match self.density {
            Some(density) => check_density(density),
            None => positive_rank(self.rank),
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let dense = |density, mask| Self {
            density: Some(density),
            mask,
            ..Self::default()
        };
        let ranked = Self {
            rank: 1,
            scale: 2.0,
            ..Self::default()
        };
        let mut all = vec![
            dense(0.1, Mask::Random),
            dense(0.3, Mask::WeightMagnitude),
            dense(0.4, Mask::Structured),
            dense(0.2, Mask::Gradient),
            dense(0.2, Mask::Snip),
        ];
        if ranked.admits(layer).is_ok() {
            all.push(ranked);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entries::places;
    use crate::entries::testing::{attached, change, layer};

    #[test]
    fn exactly_the_chosen_entries_change() {
        let base = layer(5, 7);
        let config = ShiraConfig {
            density: Some(0.3),
            scale: 0.5,
            ..ShiraConfig::default()
        };
        let mut adapter = attached(&config, &base);
        adapter.values = adapter.values.map(|values| values + 2.0);
        let positions = places(&adapter.positions.val());
        assert_eq!(positions.len(), 11);
        for (place, change) in change(&adapter, &base).iter().enumerate() {
            let expected = f64::from(positions.contains(&place));
            assert!((change - expected).abs() < 1e-14, "{place}: {change}");
        }
    }

    #[test]
    fn counts_are_those_of_a_lora_of_the_same_rank() {
        // Llama-3.2-3B, rank 32 at q and v: 9,175,040 in the PEFT benchmark's LoRA.
        let config = ShiraConfig::default();
        let of = |d_out| {
            config
                .count(&LayerShape::linear("fc", 3072, d_out, false))
                .trainable
        };
        assert_eq!(28 * (of(3072) + of(1024)), 9_175_040);
        let reason = config
            .admits(&LayerShape::linear("fc", 24, 40, false))
            .unwrap_err();
        assert!(
            reason.contains("2048 of 960") && reason.contains("at most 15"),
            "{reason}"
        );
    }
}
