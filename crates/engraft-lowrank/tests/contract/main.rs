//! The methods of this crate keep their declarations; many adapters share a model and a batch.

mod mixed;

use engraft_core::MethodEntry;
use engraft_lowrank::{DoraConfig, LoraConfig, VeraConfig};
use engraft_testkit::contract;

#[test]
fn lora() {
    contract::check(&MethodEntry::of::<LoraConfig>());
}

#[test]
fn dora() {
    contract::check(&MethodEntry::of::<DoraConfig>());
}

#[test]
fn vera() {
    contract::check(&MethodEntry::of::<VeraConfig>());
}
