//! Multitask prompt tuning.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use engraft_core::{
    AtInit, Counts, Ctx, Family, InitContext, Kind, LayerShape, Method, MethodMeta, Parts, Result,
    SiteAdapter, SiteGraft, SiteKind, SiteShape,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::tokens::{Start, positive};

/// Configuration of [`MultitaskPromptTuning`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MultitaskPromptTuningConfig {
    /// n.
    pub virtual_tokens: usize,
    /// Number of tasks T.
    pub tasks: usize,
    /// Rank r of what a task changes.
    pub rank: usize,
    /// How P starts: `random`, `sampled-vocabulary` or `{ tokens = [..] }`, the ids of a text.
    pub start: Start,
}

impl Default for MultitaskPromptTuningConfig {
    fn default() -> Self {
        Self {
            virtual_tokens: 20,
            tasks: 1,
            rank: 1,
            start: Start::Random,
        }
    }
}

/// [P . (U_t V_t); E]: a prompt shared by all tasks, multiplied entry by entry with a matrix of low rank
/// of the task t that a sequence belongs to, in front of the embedded tokens.
///
/// | symbol | shape | |
/// |---|---|---|
/// | P (`tokens`) | [n, d] | trained |
/// | U (`cols`) | [T, n, r] | trained, N(0, 0.02^2) at first |
/// | V (`rows`) | [T, r, d] | trained, N(0, 0.02^2) at first |
///
/// The tasks of a batch are in [`engraft_core::Text::tasks`], each less than T; without them all
/// sequences belong to task 0.
///
/// Wang et al., Multitask Prompt Tuning Enables Parameter-Efficient Transfer Learning, arXiv
/// 2303.02861, section 3.2.
///
/// # Cost
/// n tokens more in every layer, and n r d per sequence.
#[derive(Module, Debug)]
pub struct MultitaskPromptTuning {
    /// P, [n, d].
    pub tokens: Param<Tensor<2>>,
    /// U, [T, n, r].
    pub cols: Param<Tensor<3>>,
    /// V, [T, r, d].
    pub rows: Param<Tensor<3>>,
}

impl MultitaskPromptTuning {
    /// The prompts of these tasks, [tasks, n, d].
    fn prompts(&self, tasks: Tensor<1, Int>) -> Tensor<3> {
        let of = |factor: &Param<Tensor<3>>| factor.val().select(0, tasks.clone());
        self.tokens.val().unsqueeze() * of(&self.cols).matmul(of(&self.rows))
    }
}

impl SiteAdapter for MultitaskPromptTuning {
    fn extend_sequence(&self, tokens: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        let batch = tokens.dims()[0];
        let prompts = match ctx.own_text().and_then(|text| text.tasks) {
            Some(tasks) => self.prompts(tasks),
            None => {
                let [count, width] = self.tokens.dims();
                let first = Tensor::zeros([1], &tokens.device());
                self.prompts(first).expand([batch, count, width])
            }
        };
        Tensor::cat(vec![prompts, tokens], 1)
    }
}

impl SiteGraft for MultitaskPromptTuningConfig {
    type Adapter = MultitaskPromptTuning;

    const SITES: &'static [SiteKind] = &[SiteKind::Prompt];

    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, site: &SiteShape) -> Counts {
        let (n, d) = (self.virtual_tokens, site.width);
        Counts::trained(n * d + self.tasks * self.rank * (n + d))
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<MultitaskPromptTuning> {
        let (n, d) = (self.virtual_tokens, site.width);
        let factor = |shape: [usize; 3], role: &str| {
            Param::from_tensor(ctx.tensor(Init::Normal { std: 0.02 }, shape, role))
        };
        Ok(MultitaskPromptTuning {
            tokens: Param::from_tensor(self.start.table([n, d], "tokens", ctx)?),
            cols: factor([self.tasks, n, self.rank], "cols"),
            rows: factor([self.tasks, self.rank, d], "rows"),
        })
    }
}

impl Method for MultitaskPromptTuningConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        peft: Some("MULTITASK_PROMPT_TUNING"),
        mergeable: false,
        lengthens: true,
        at_init: AtInit::NotIdentity,
        admits: "the embedded tokens of a text",
        ..MethodMeta::graft(
            "multitask-prompt-tuning",
            "Multitask prompt tuning",
            Family::Prompt,
            "2303.02861",
            "[P . (U_t V_t); E], t the task of a sequence, E the embedded tokens",
        )
    };

    fn parts(&self) -> Parts {
        Parts::site(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive("virtual-tokens", self.virtual_tokens)?;
        positive("tasks", self.tasks)?;
        positive("rank", self.rank)?;
        self.start.validate()
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            virtual_tokens: 2,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                tasks: 3,
                rank: 2,
                start: Start::Tokens(vec![1]),
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use engraft_core::{Bank, FrozenBase, Text};
    use engraft_tensor::bridge::values;

    use super::*;
    use crate::testing::draw;

    #[test]
    fn each_sequence_has_the_prompt_of_its_task() {
        let base = FrozenBase::new(draw([4, 4], "w"), None);
        let bank = Bank::default();
        let ctx = InitContext::new(0, "prompt", "default", &base, &bank);
        let site = SiteShape {
            path: "prompt".to_owned(),
            kind: SiteKind::Prompt,
            width: 4,
        };
        let config = MultitaskPromptTuningConfig {
            virtual_tokens: 3,
            tasks: 2,
            rank: 2,
            ..MultitaskPromptTuningConfig::default()
        };
        let adapter = config.init(&site, &ctx).unwrap();
        let of_task = |task: usize| {
            let factor = |factor: &Param<Tensor<3>>| factor.val().narrow(0, task, 1).squeeze_dim(0);
            let low_rank: Tensor<2> = Tensor::matmul(factor(&adapter.cols), factor(&adapter.rows));
            values(&(adapter.tokens.val() * low_rank))
        };
        let tokens = draw([2, 1, 4], "tokens");
        let device = tokens.device();
        let tasks = Tensor::from_data(TensorData::new(vec![1i64, 0], [2]), &device);
        let text = Text::new(Tensor::zeros([2, 1], &device)).with_tasks(tasks);
        let told = adapter.extend_sequence(tokens.clone(), &Ctx::default().with_text(&text));
        let untold = adapter.extend_sequence(tokens, &Ctx::default());
        let prompt = |y: &Tensor<3>, row| values(&y.clone().narrow(0, row, 1).narrow(1, 0, 3));
        assert_eq!(prompt(&told, 0), of_task(1));
        assert_eq!(prompt(&told, 1), of_task(0));
        assert_eq!(prompt(&untold, 0), of_task(0));
    }
}
