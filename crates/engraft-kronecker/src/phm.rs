//! Parameterised hypercomplex multiplication: the linear map of Compacter.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{BankSpec, Ctx, InitContext};
use engraft_tensor::Init;
use engraft_tensor::ops::kronecker_update;
use serde::{Deserialize, Serialize};

/// Name of the bank entry that holds the rules.
const RULES: &str = "rules";

/// Standard deviation of the first rules, in the authors' code.
const RULE_STD: f64 = 0.01;

/// What happens to the rules A_k that all layers share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rules {
    /// Trained along.
    #[default]
    Trained,
    /// Random, grown again from the seed.
    Frozen,
}

impl Rules {
    /// A_1, ..., A_n as the rows of a matrix [n, n * n] in the bank, N(0, 0.01^2) at first.
    pub(crate) fn bank(self, n: usize) -> BankSpec {
        let (shape, init) = ([n, n * n], Init::Normal { std: RULE_STD });
        match self {
            Self::Trained => BankSpec::trained(RULES, shape, init),
            Self::Frozen => BankSpec::frozen(RULES, shape, init),
        }
    }
}

/// The name under which an adapter finds the rules.
pub(crate) fn rules_name(ctx: &InitContext) -> String {
    ctx.shared_name(RULES)
}

/// The rules, [n, n, n].
pub(crate) fn rules(ctx: &Ctx, name: &str) -> Tensor<3> {
    let rules = ctx.shared(name);
    let n = rules.dims()[0];
    rules.reshape([n, n, n])
}

/// What is left of a layer's own in the map sum_k A_k (x) (s_k t_k), with shared rules A_k [n, n].
#[derive(Module, Debug)]
pub struct Phm {
    /// s, [n, inputs / n, r].
    pub s: Param<Tensor<3>>,
    /// t, [n, r, outputs / n].
    pub t: Param<Tensor<3>>,
}

impl Phm {
    /// A map of d_in to d_out: s Glorot uniform, t likewise or zero.
    pub(crate) fn init(
        [n, rank]: [usize; 2],
        [d_in, d_out]: [usize; 2],
        zero: bool,
        role: &str,
        ctx: &InitContext,
    ) -> Self {
        let draw = |shape: [usize; 3], init: Init, name: &str| {
            Param::from_tensor(ctx.tensor(init, shape, &format!("{role}.{name}")))
        };
        let (p, q) = (d_in / n, d_out / n);
        let t_init = if zero { Init::ZEROS } else { glorot(rank, q) };
        Self {
            s: draw([n, p, rank], glorot(p, rank), "s"),
            t: draw([n, rank, q], t_init, "t"),
        }
    }

    /// x sum_k A_k (x) (s_k t_k) for x [tokens, inputs] and rules [n, n, n], in
    /// O(tokens n r (inputs + n^2 + outputs)).
    pub(crate) fn apply(&self, x: Tensor<2>, rules: Tensor<3>) -> Tensor<2> {
        let (s, t) = (self.s.val(), self.t.val());
        let ([n, p, r], [_, _, q]) = (s.dims(), t.dims());
        let tokens = x.dims()[0];
        // [tokens, row i of the rules, k, r]
        let narrow = x
            .reshape([tokens * n, p])
            .matmul(s.swap_dims(0, 1).reshape([p, n * r]))
            .reshape([tokens, n, n, r]);
        // [k, tokens, r, column j of the rules]
        let mixed = narrow
            .permute([2, 0, 3, 1])
            .reshape([n, tokens * r, n])
            .matmul(rules)
            .reshape([n, tokens, r, n]);
        mixed
            .permute([1, 3, 0, 2])
            .reshape([tokens * n, n * r])
            .matmul(t.reshape([n * r, q]))
            .reshape([tokens, n * q])
    }

    /// W + sum_k A_k (x) (s_k t_k), [inputs, outputs].
    pub(crate) fn added_to(&self, weight: Tensor<2>, rules: Tensor<3>) -> Tensor<2> {
        kronecker_update(weight, rules, self.s.val().matmul(self.t.val()))
    }
}

/// U(-b, b) with b = sqrt(6 / (rows + cols)).
pub(crate) fn glorot(rows: usize, cols: usize) -> Init {
    Init::Uniform {
        bound: (6.0 / (rows + cols) as f64).sqrt(),
    }
}

/// Whether n divides a width: the reason if not.
pub(crate) fn admit_division(n: usize, widths: &[usize]) -> Result<(), String> {
    match widths.iter().find(|width| !width.is_multiple_of(n)) {
        Some(width) => Err(format!(
            "division {n}: expected a divisor of the width {width}"
        )),
        None => Ok(()),
    }
}

/// Whether n and the rank are at least 1: the reason if not.
pub(crate) fn check_sizes(n: usize, rank: usize) -> Result<(), String> {
    match (n, rank) {
        (0, _) => Err("division 0: expected at least 1".to_owned()),
        (_, 0) => Err("rank 0: expected at least 1".to_owned()),
        _ => Ok(()),
    }
}

/// The largest common divisor of both widths up to `bound`, for examples.
pub(crate) fn common_divisor(a: usize, b: usize, bound: usize) -> usize {
    (1..=bound)
        .rev()
        .find(|n| a.is_multiple_of(*n) && b.is_multiple_of(*n))
        .unwrap_or(1)
}
