//! A method of every kind keeps the contract.

use engraft_core::{Adapted, AnyMethod, Error, Injection, LayerShape, MethodEntry, Targets};
use engraft_testkit::{Harness, contract};

use crate::toys::{
    BiasesConfig, BothConfig, CoupledConfig, OffsetConfig, ScaleConfig, SharedConfig, ShiftConfig,
};

#[test]
fn toys_of_every_kind_keep_the_contract() {
    contract::check_all(&[
        MethodEntry::of::<ScaleConfig>(),
        MethodEntry::of::<OffsetConfig>(),
        MethodEntry::of::<SharedConfig>(),
        MethodEntry::of::<CoupledConfig>(),
        MethodEntry::of::<ShiftConfig>(),
        MethodEntry::of::<BiasesConfig>(),
        MethodEntry::of::<BothConfig>(),
    ]);
}

#[test]
fn layers_that_cannot_be_coupled_are_refused_together() {
    let layer = LayerShape::linear("", 4, 6, true);
    let mut adapted = Adapted::new(Harness::new(
        &layer,
        0,
        &Default::default(),
        burn::tensor::DType::F32,
    ));
    let everything = Injection::new(0).targets(Targets::regex(".*"));
    let error = adapted
        .attach(
            "a",
            &AnyMethod::new(&CoupledConfig {}).unwrap(),
            &everything,
        )
        .unwrap_err();
    assert!(matches!(error, Error::Inadmissible { .. }), "{error}");
}
