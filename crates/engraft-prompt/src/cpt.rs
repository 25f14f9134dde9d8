//! Context-aware prompt tuning.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    AtInit, Counts, Ctx, EvolveSites, EvolvingSite, Family, Gradient, InitContext, Kind,
    LayerShape, Method, MethodMeta, Parts, Result, SiteAdapter, SiteGraft, SiteKind, SiteShape,
    Time,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::tokens::{column, embedded, prepend};

/// The width for which the radii of the balls are stated.
const REFERENCE_WIDTH: f64 = 2048.0;
/// The radius for answers, whose tokens stay as they are.
const NO_RADIUS: f64 = 1e-10;

/// How the loss weighs the answers of a context and of the text itself; see [`loss_weights`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossWeighting {
    /// All alike.
    #[default]
    None,
    /// Each less than the one behind it.
    Decay,
}

/// Configuration of [`Cpt`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct CptConfig {
    /// The context: ids of solved examples.
    pub token_ids: Vec<usize>,
    /// What each of them is: modulo 4, 1 is the template around an input, 2 an input, 3 the template
    /// around an answer, 0 an answer; each example counts on from the one before. Left out, all 1.
    pub token_types: Option<Vec<usize>>,
    /// Radius of the balls of inputs.
    pub epsilon: f64,
    /// Radius of the balls of templates.
    pub format_epsilon: f64,
    /// `none` or `decay`: how a training loop is to weigh the answers.
    pub loss_weighting: LossWeighting,
    /// The factor from an answer to the one before it.
    pub loss_decay: f64,
}

impl Default for CptConfig {
    fn default() -> Self {
        Self {
            token_ids: vec![0],
            token_types: None,
            epsilon: 0.1,
            format_epsilon: 0.1,
            loss_weighting: LossWeighting::None,
            loss_decay: 1.0,
        }
    }
}

/// [C + p(D); E]: the embeddings C of solved examples, each moved inside a small ball, in front of the
/// embedded tokens.
///
/// | symbol | shape | |
/// |---|---|---|
/// | C (`tokens`) | [n, d] | frozen, stored: embeddings of the context |
/// | D (`delta`) | [n, d] | trained, zero at first; rows of answers are not trained |
/// | p | | each row inside the ball of radius eps sqrt(d / 2048) of its type |
///
/// The gradient is that of p(D) with respect to p(D), as if there were no ball: after each update D
/// is put back into the balls (projected gradient descent).
///
/// Blau et al., Context-aware Prompt Tuning: Advancing In-Context Learning with Adversarial Methods,
/// arXiv 2410.17222, section 3. The paper trains on the answers inside the context too, weighted:
/// [`loss_weights`] are the weights.
///
/// # Cost
/// n tokens more in every layer.
#[derive(Module, Debug)]
pub struct Cpt {
    /// C, [n, d].
    pub tokens: Param<Tensor<2>>,
    /// D, [n, d].
    pub delta: Param<Tensor<2>>,
    /// p(D) - D where D is trained, p(D) elsewhere, held constant.
    held: Option<Tensor<2>>,
    #[module(skip)]
    radii: Vec<f64>,
    #[module(skip)]
    trained: Vec<f64>,
}

impl Cpt {
    /// p(D), [n, d].
    pub fn projected(&self) -> Tensor<2> {
        let delta = self.delta.val().detach();
        let norm = (delta.clone() * delta.clone()).sum_dim(1).sqrt();
        let radii = column(self.radii.clone(), &delta);
        delta * (radii.clone() / norm.max_pair(radii))
    }

    /// What is in front of the text, [n, d].
    pub fn prompt(&self) -> Tensor<2> {
        let held = self.held.clone().unwrap_or_else(|| self.shift());
        self.tokens.val() + self.moving() + held
    }

    /// D where it is trained.
    fn moving(&self) -> Tensor<2> {
        let delta = self.delta.val();
        let trained = column(self.trained.clone(), &delta);
        delta * trained
    }

    /// p(D) less what is trained of D.
    fn shift(&self) -> Tensor<2> {
        self.projected() - self.moving().detach()
    }
}

impl SiteAdapter for Cpt {
    fn extend_sequence(&self, tokens: Tensor<3>, _: &Ctx) -> Tensor<3> {
        prepend(self.prompt(), tokens)
    }

    fn surrogate(&self) -> Self {
        Self {
            held: Some(self.shift()),
            ..self.clone()
        }
    }
}

/// The weight of each token's loss, from its type: for `decay` < 1 the answers (types that 4
/// divides) weigh 1, decay, decay^2 ... from the last one to the first; everything else weighs 1.
///
/// A batch's types are those of the context, then those of the text, with the largest type of the
/// context added; padding has type 0.
pub fn loss_weights(types: &[usize], decay: f64) -> Vec<f64> {
    let is_answer = |kind: &usize| *kind > 0 && kind.is_multiple_of(4);
    let mut answers: Vec<usize> = types.iter().copied().filter(is_answer).collect();
    answers.sort_unstable();
    answers.dedup();
    let weight = |kind: &usize| match answers.binary_search(kind) {
        Ok(place) => decay.powi((answers.len() - 1 - place) as i32),
        Err(_) => 1.0,
    };
    types.iter().map(weight).collect()
}

impl CptConfig {
    /// The type of each token, modulo 4.
    fn kinds(&self) -> Vec<usize> {
        match &self.token_types {
            Some(types) => types.iter().map(|kind| kind % 4).collect(),
            None => vec![1; self.token_ids.len()],
        }
    }
}

impl SiteGraft for CptConfig {
    type Adapter = Cpt;

    const SITES: &'static [SiteKind] = &[SiteKind::Prompt];

    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, site: &SiteShape) -> Counts {
        let numel = self.token_ids.len() * site.width;
        Counts::with_frozen(numel, numel)
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<Cpt> {
        let width = site.width;
        let shape = [self.token_ids.len(), width];
        let scale = (width as f64 / REFERENCE_WIDTH).sqrt();
        let radius = |kind| match kind {
            1 | 3 => self.format_epsilon * scale,
            2 => self.epsilon * scale,
            _ => NO_RADIUS,
        };
        let kinds = self.kinds();
        let tokens = embedded(&self.token_ids, width, ctx)?;
        Ok(Cpt {
            tokens: Param::from_tensor(tokens).set_require_grad(false),
            delta: Param::from_tensor(ctx.tensor(Init::ZEROS, shape, "delta")),
            held: None,
            radii: kinds.iter().map(|kind| radius(*kind)).collect(),
            trained: kinds
                .iter()
                .map(|kind| f64::from(u8::from(*kind != 0)))
                .collect(),
        })
    }
}

impl EvolveSites for CptConfig {
    fn evolve(&self, _: Time, sites: &mut [EvolvingSite<'_, Cpt>]) -> Result<()> {
        for site in sites {
            let adapter = site.adapter_mut();
            let inside = adapter.projected();
            crate::pruning::set(&mut adapter.delta, inside);
        }
        Ok(())
    }
}

impl Method for CptConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        peft: Some("CPT"),
        mergeable: false,
        lengthens: true,
        at_init: AtInit::NotIdentity,
        gradient: Gradient::Surrogate("D in the place of p(D), rows of answers held constant"),
        admits: "the embedded tokens of a text",
        ..MethodMeta::graft(
            "cpt",
            "CPT",
            Family::Prompt,
            "2410.17222",
            "[C + p(D); E], C embeddings of examples, p onto small balls, E the embedded tokens",
        )
    };

    fn parts(&self) -> Parts {
        Parts::evolving_site(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        if self.token_ids.is_empty() {
            return Err("token-ids is empty: expected the ids of a context".to_owned());
        }
        if let Some(types) = &self.token_types
            && types.len() != self.token_ids.len()
        {
            return Err(format!(
                "{} token-types for {} token-ids: expected one each",
                types.len(),
                self.token_ids.len()
            ));
        }
        let sizes = [
            ("epsilon", self.epsilon),
            ("format-epsilon", self.format_epsilon),
        ];
        match sizes
            .iter()
            .find(|(_, size)| !size.is_finite() || *size <= 0.0)
        {
            Some((key, size)) => Err(format!("{key} {size}: expected a positive number")),
            None if !self.loss_decay.is_finite() => Err(format!(
                "loss-decay {}: expected a finite number",
                self.loss_decay
            )),
            None => Ok(()),
        }
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        vec![
            Self::default(),
            Self {
                token_ids: vec![3, 1, 0, 2],
                token_types: Some(vec![1, 2, 3, 4]),
                epsilon: 4.0,
                format_epsilon: 0.2,
                loss_weighting: LossWeighting::Decay,
                loss_decay: 0.9,
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::{Bank, FrozenBase};
    use engraft_tensor::bridge::values;

    use super::*;
    use crate::testing::draw;

    #[test]
    fn every_row_stays_in_the_ball_of_its_type() {
        let words = FrozenBase::new(draw([5, 8], "words"), None);
        let bank = Bank::default();
        let ctx =
            InitContext::new(0, "prompt", "default", &words, &bank).with_embeddings(Some(&words));
        let site = SiteShape {
            path: "prompt".to_owned(),
            kind: SiteKind::Prompt,
            width: 8,
        };
        let config = CptConfig {
            token_ids: vec![0, 1, 2, 3],
            token_types: Some(vec![1, 2, 3, 4]),
            epsilon: 100.0,
            format_epsilon: 0.2,
            ..CptConfig::default()
        };
        let mut adapter = config.init(&site, &ctx).unwrap();
        assert_eq!(
            values(&adapter.prompt()),
            values(&words.weight().narrow(0, 0, 4))
        );
        let delta = draw([4, 8], "delta");
        adapter.delta = Param::from_tensor(delta.clone());
        let norm = |x: &Tensor<2>, row: usize| {
            let row = values(&x.clone().narrow(0, row, 1));
            row.iter().map(|v| v * v).sum::<f64>().sqrt()
        };
        let projected = adapter.projected();
        let radius = 0.2 * (8.0f64 / 2048.0).sqrt();
        assert!((norm(&projected, 0) - radius).abs() < 1e-12);
        assert!((norm(&projected, 1) - norm(&delta, 1)).abs() < 1e-12);
        assert!(norm(&projected, 3) < 1e-9);
        let moved = values(&(adapter.prompt() - adapter.tokens.val() - projected));
        assert!(moved.iter().all(|difference| difference.abs() < 1e-12));
    }

    #[test]
    fn earlier_answers_weigh_less() {
        let types = [1, 2, 3, 4, 5, 6, 7, 8, 8, 0];
        let weights = loss_weights(&types, 0.5);
        assert_eq!(weights, [1.0, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    }
}
