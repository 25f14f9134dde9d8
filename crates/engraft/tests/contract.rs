//! Every registered method keeps every promise of its declaration.

#[test]
fn every_method_keeps_its_promises() {
    engraft_testkit::contract::check_all(engraft::METHODS);
}
