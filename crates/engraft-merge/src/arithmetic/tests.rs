use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::update::Factors;
use engraft_linalg::Matrix;

const OUT: usize = 6;
const IN: usize = 5;

fn matrix(rows: usize, columns: usize) -> impl Strategy<Value = Matrix> {
    vec(-2.0..2.0_f64, rows * columns)
        .prop_map(move |data| Matrix::from_vec(rows, columns, data).unwrap())
}

/// Two modules of one rank.
fn lora(rank: usize) -> impl Strategy<Value = Operand> {
    vec((matrix(OUT, rank), matrix(rank, IN)), 2).prop_map(|pairs| {
        let updates = pairs
            .into_iter()
            .map(|(l, r)| Update::low_rank(Factors::new(l, r).unwrap()));
        named("lora", updates)
    })
}

fn ia3() -> impl Strategy<Value = Operand> {
    (vec(-1.0..1.0_f64, OUT), vec(-1.0..1.0_f64, IN)).prop_map(|(rows, columns)| {
        let keys = Update {
            shape: [Some(OUT), None],
            bias_scale: Some(rows.clone()),
            rows: Some(rows),
            ..Update::default()
        };
        let down = Update {
            shape: [None, Some(IN)],
            columns: Some(columns),
            ..Update::default()
        };
        named("ia3", [keys, down])
    })
}

fn named(name: &str, updates: impl IntoIterator<Item = Update>) -> Operand {
    let modules = updates.into_iter().enumerate();
    Operand::new(
        name,
        modules.map(|(i, u)| (format!("layers.{i}"), u)).collect(),
    )
}

const BASE: [f32; OUT * IN] = [0.5; OUT * IN];

fn distance(a: &Operand, b: &Operand) -> f64 {
    let full = |update: &Update| {
        let mut update = update.clone();
        update.shape = [Some(OUT), Some(IN)];
        update.to_dense(Some(&BASE)).unwrap()
    };
    assert!(a.modules.keys().eq(b.modules.keys()));
    let pairs = a.modules.values().zip(b.modules.values());
    pairs
        .map(|(a, b)| full(a).plus(&full(b).scaled(-1.0)).unwrap().norm())
        .fold(0.0, f64::max)
}

/// dW is at most rank * 4 * (coefficients of up to 3, three terms, both factors) in an entry, and is
/// compared in single precision.
const TOLERANCE: f64 = 1e-3;

fn close(a: &Operand, b: &Operand) -> bool {
    distance(a, b) < TOLERANCE
}

fn zero(a: &Operand) -> Operand {
    a.scaled(Form::Exact, 0.0).unwrap()
}

proptest! {
    #[test]
    fn exact_sums_are_linear(a in lora(2), b in lora(3), c in -3.0..3.0_f64, d in -3.0..3.0_f64) {
        let form = Form::Exact;
        let sum = Operand::combination(form, &[(c, &a), (d, &b)]).unwrap();
        let parts = a.scaled(form, c).unwrap().plus(form, &b.scaled(form, d).unwrap()).unwrap();
        prop_assert!(close(&sum, &parts));
        let twice = sum.plus(form, &sum).unwrap();
        prop_assert!(close(&twice, &sum.scaled(form, 2.0).unwrap()));
        let other_way = Operand::combination(form, &[(d, &b), (c, &a)]).unwrap();
        prop_assert!(close(&sum, &other_way));
        let back = a.analogy(form, &b, &b).unwrap();
        prop_assert!(close(&back, &a));
    }

    #[test]
    fn negation_twice_is_the_adapter_and_a_merge_with_it_is_zero(
        a in prop_oneof![lora(3), ia3()],
        lambda in 0.0..1.0_f64,
    ) {
        for form in [Form::Exact, Form::FactorWise] {
            let negation = a.negation(form).unwrap();
            let twice = negation.negation(form).unwrap();
            prop_assert_eq!(&twice.modules, &a.modules);
            prop_assert!(close(&negation, &a.scaled(Form::Exact, -1.0).unwrap()));
            prop_assert!(close(&a.plus(form, &negation).unwrap(), &zero(&a)));
            prop_assert!(close(&a.minus(form, &a).unwrap(), &zero(&a)));
            let halves = a.interpolation(form, 0.5, &negation).unwrap();
            prop_assert!(close(&halves, &zero(&a)));
            // An adapter with itself is itself.
            prop_assert!(close(&a.interpolation(form, lambda, &a).unwrap(), &a));
        }
    }

    /// lambda A_1 + (1 - lambda) A_2 before one B is lambda B A_1 + (1 - lambda) B A_2.
    #[test]
    fn forms_agree_where_a_factor_is_shared(
        a in lora(2), b in lora(2), lambda in 0.0..=1.0_f64, left in any::<bool>(),
    ) {
        let mut b = b;
        for (module, update) in &mut b.modules {
            let shared = a.modules[module].low_rank.as_ref().unwrap();
            let own = update.low_rank.as_mut().unwrap();
            if left { own.left = shared.left.clone() } else { own.right = shared.right.clone() }
        }
        let [factors, exact] = [Form::FactorWise, Form::Exact].map(|form| a.interpolation(form, lambda, &b).unwrap());
        prop_assert!(close(&factors, &exact));
        let difference = Difference::of(&[(lambda, &a), (1.0 - lambda, &b)]).unwrap();
        for module in &difference.modules {
            prop_assert!(module.difference < 1e-12 * (1.0 + OUT as f64 * IN as f64 * 8.0), "{}", difference);
        }
    }

    #[test]
    fn forms_agree_at_both_ends(a in lora(2), b in lora(2)) {
        for (lambda, end) in [(0.0, &b), (1.0, &a)] {
            for form in [Form::Exact, Form::FactorWise] {
                prop_assert!(close(&a.interpolation(form, lambda, &b).unwrap(), end));
            }
            prop_assert!(Difference::of(&[(lambda, &a), (1.0 - lambda, &b)]).unwrap().total() < 1e-9);
        }
    }

    /// (lambda B_1 + mu B_2)(lambda A_1 + mu A_2) - (lambda B_1 A_1 + mu B_2 A_2), by hand.
    #[test]
    fn the_difference_is_the_cross_terms(a in lora(2), b in lora(2), lambda in 0.1..0.9_f64) {
        let mu = 1.0 - lambda;
        let difference = Difference::of(&[(lambda, &a), (mu, &b)]).unwrap();
        let (mut all, mut norm) = (0.0, 0.0);
        for (module, found) in a.modules.keys().zip(&difference.modules) {
            let [a, b] = [&a, &b].map(|x| x.modules[module].low_rank.clone().unwrap());
            let [aa, bb] = [&a, &b].map(|x| x.product().unwrap());
            let exact = aa.scale(lambda).add(&bb.scale(mu)).unwrap();
            let cross = a.left.matmul(&b.right).unwrap().add(&b.left.matmul(&a.right).unwrap()).unwrap();
            let expected = cross.scale(lambda * mu)
                .add(&aa.scale(lambda * lambda - lambda)).unwrap()
                .add(&bb.scale(mu * mu - mu)).unwrap();
            let (expected, exact) = (expected.frobenius_norm(), exact.frobenius_norm());
            prop_assert!((found.difference - expected).abs() < 1e-10 * (1.0 + expected));
            prop_assert!((found.exact - exact).abs() < 1e-10 * (1.0 + exact));
            all += expected * expected;
            norm += exact * exact;
        }
        prop_assert!((difference.total() - (all / norm).sqrt()).abs() < 1e-8 * difference.total());
        prop_assert!(difference.to_string().lines().count() == 4);
    }

    #[test]
    fn both_forms_of_ia3_are_one(
        a in ia3(), b in ia3(), c in ia3(), x in -2.0..2.0_f64, y in -2.0..2.0_f64,
    ) {
        let terms = [(x, &a), (y, &b), (-1.0, &c)];
        let [factors, exact] = [Form::FactorWise, Form::Exact].map(|form| Operand::combination(form, &terms).unwrap());
        prop_assert_eq!(&factors.modules, &exact.modules);
        prop_assert_eq!(Difference::of(&terms).unwrap().total(), 0.0);
        // l = 1 + r: the negation of l is 2 - l, the sum lambda l_1 + (1 - lambda) l_2.
        let l = |x: &Operand| x.modules["layers.0"].rows.as_ref().unwrap().iter().map(|r| 1.0 + r).collect::<Vec<_>>();
        for (negated, l) in l(&a.negation(Form::FactorWise).unwrap()).iter().zip(l(&a)) {
            prop_assert!((negated - (2.0 - l)).abs() < 1e-12);
        }
        let mixed = l(&a.interpolation(Form::FactorWise, 0.3, &b).unwrap());
        for (mixed, (a, b)) in mixed.iter().zip(l(&a).iter().zip(l(&b))) {
            prop_assert!((mixed - (0.3 * a + 0.7 * b)).abs() < 1e-12);
        }
    }

    #[test]
    fn factors_are_added_as_the_paper_adds_them(a in lora(2), b in lora(2), lambda in 0.0..1.0_f64) {
        let sum = a.interpolation(Form::FactorWise, lambda, &b).unwrap();
        for (module, update) in &sum.modules {
            let [a, b] = [&a, &b].map(|x| x.modules[module].low_rank.clone().unwrap());
            let found = update.low_rank.as_ref().unwrap();
            let mixed = |a: &Matrix, b: &Matrix| a.scale(lambda).add(&b.scale(1.0 - lambda)).unwrap();
            prop_assert!(found.left.max_abs_diff(&mixed(&a.left, &b.left)).unwrap() < 1e-12);
            prop_assert!(found.right.max_abs_diff(&mixed(&a.right, &b.right)).unwrap() < 1e-12);
            prop_assert_eq!(found.rank(), 2);
        }
    }
}

fn factors(rank: usize) -> Update {
    let ones = |m, n| Matrix::from_fn(m, n, |i, j| (i + j) as f64 + 1.0);
    Update::low_rank(Factors::new(ones(OUT, rank), ones(rank, IN)).unwrap())
}

#[test]
fn refusals_name_adapter_and_module_and_what_works() {
    let two = named("two", [factors(2), factors(2)]);
    let three = named("three", [factors(2), factors(3)]);
    let fewer = named("fewer", [factors(2)]);
    let scaling = Update {
        shape: [Some(OUT), None],
        rows: Some(vec![0.5; OUT]),
        ..Update::default()
    };
    let scaled = named("scaled", [factors(2), scaling]);
    let dense = crate::update::Dense::new(OUT, IN, vec![1.0; OUT * IN]).unwrap();
    let delta = named("delta", [factors(2), Update::dense(dense)]);
    for (other, expected) in [
        (
            &three,
            "adapter `three`, module `layers.1`: rank 3, and `two` has rank 2",
        ),
        (
            &fewer,
            "adapter `fewer`, module `layers.1`: not changed, but by `two`",
        ),
        (
            &scaled,
            "adapter `scaled`, module `layers.1`: a scaling, and `two` has factors",
        ),
        (
            &delta,
            "adapter `delta`, module `layers.1`: its update is neither",
        ),
    ] {
        let error = two.plus(Form::FactorWise, other).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
        assert!(error.contains("the exact form works"), "{error}");
        let sum = two.plus(Form::Exact, other).unwrap();
        assert_eq!(sum.modules.len(), 2);
        assert_eq!(sum.name, format!("two + {}", other.name));
    }
    let narrow = named(
        "narrow",
        [
            Update::low_rank(
                Factors::new(Matrix::zeros(OUT, 2), Matrix::zeros(2, IN - 1)).unwrap(),
            ),
            factors(2),
        ],
    );
    for form in [Form::Exact, Form::FactorWise] {
        let error = two.plus(form, &narrow).unwrap_err().to_string();
        assert!(
            error.starts_with("adapter `narrow`, module `layers.0`: "),
            "{error}"
        );
        assert!(error.contains("6x5") && error.contains("6x4"), "{error}");
        let error = two.scaled(form, f64::NAN).unwrap_err().to_string();
        assert!(error.contains("`two`: its coefficient is NaN"), "{error}");
        assert!(Operand::combination(form, &[]).is_err());
    }
}

#[test]
fn sums_are_named_after_their_terms() {
    let a = named("a", [factors(1)]);
    let b = named("b", [factors(1)]);
    assert_eq!(a.analogy(Form::Exact, &b, &a).unwrap().name, "a - b + a");
    assert_eq!(
        a.interpolation(Form::Exact, 0.25, &b).unwrap().name,
        "0.25 a + 0.75 b"
    );
}
