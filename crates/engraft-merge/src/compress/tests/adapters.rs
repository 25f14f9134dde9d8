//! Results that are adapters.

use super::fixtures::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn truncated_pairs_lose_what_is_left_out(keep in 1usize..6, share in 0.3f64..1.0, seed in 0u64..1000) {
        let place = Place::new();
        let adapter = place.path("adapter");
        std::fs::create_dir(&adapter).unwrap();
        lora(&adapter, 4, Dtype::F32, seed);
        for (at, how) in [Rank::Fixed(keep), Rank::Energy(share)].into_iter().enumerate() {
            let out = place.path(&format!("out{at}"));
            let report = compress(&adapter, &out, &Options::new(Codec::Svd(how))).unwrap();
            let [before, after] = [&adapter, &out].map(|path| Adapter::open("a", path).unwrap());
            prop_assert_eq!(after.config().is_set("use_rslora"), false);
            for tensor in &report.tensors {
                let [x, y] = [&before, &after].map(|adapter| {
                    adapter.update(&tensor.name, None).unwrap().low_rank.unwrap().product().unwrap()
                });
                let error = x.sub(&y).unwrap().frobenius_norm() / x.frobenius_norm();
                prop_assert!((error - tensor.error.unwrap()).abs() <= 1e-5, "{error} {tensor:?}");
                if let Rank::Energy(share) = how {
                    prop_assert!(error * error <= 1.0 - share + 1e-6);
                }
                prop_assert!(keep < 4 || at == 1 || error <= 1e-6);
            }
            let head = format!("{MODEL}head.weight");
            prop_assert_eq!(after.files().read(&head).unwrap(), before.files().read(&head).unwrap());
        }
    }
}

#[test]
fn a_checkpoints_change_becomes_an_adapter() {
    let place = Place::new();
    let [base, tuned] = checkpoints(place.directory.path(), Dtype::F32);
    let (from, to) = (Base::open(&base).unwrap(), Base::open(&tuned).unwrap());
    let delta = |module: &str| -> Matrix {
        let weight = |base: &Base| {
            base.weight(module, &Default::default())
                .unwrap()
                .matrix()
                .unwrap()
        };
        weight(&to).sub(&weight(&from)).unwrap()
    };
    for (name, codec) in [
        ("svd", Codec::Svd(Rank::Fixed(5))),
        ("energy", Codec::Svd(Rank::Energy(0.9))),
        ("sparse", Codec::Sparse(Amount::Rank(2))),
        ("dense", Codec::Sparse(Amount::Density(0.25))),
    ] {
        let out = place.path(name);
        let report = compress(&tuned, &out, &Options::new(codec).against(&base)).unwrap();
        assert!(
            report
                .notes
                .iter()
                .any(|note| note.contains("model.norm.weight"))
        );
        let adapter = Adapter::open("a", &out).unwrap();
        assert_eq!(adapter.modules().len(), 2);
        for tensor in &report.tensors {
            let update = adapter.update(&tensor.name, Some(&from)).unwrap();
            let (rows, columns) = update.known_shape().unwrap();
            let found =
                Matrix::from_f32(rows, columns, &update.strip(0..rows, None).unwrap()).unwrap();
            let delta = delta(&tensor.name);
            let error = found.sub(&delta).unwrap().frobenius_norm() / delta.frobenius_norm();
            assert!(
                (error - tensor.error.unwrap()).abs() <= 1e-5,
                "{name} {error} {tensor:?}"
            );
            if let Some(sparse) = &update.sparse {
                let expected = match codec {
                    Codec::Sparse(Amount::Rank(r)) => r * (rows + columns),
                    _ => rows * columns / 4,
                };
                assert_eq!(sparse.len(), expected);
            }
        }
    }
    let norm = Adapter::open("a", &place.path("svd")).unwrap();
    assert_eq!(norm.saved().collect::<Vec<_>>(), ["model.norm.weight"]);
    let message = compress(
        &tuned,
        &place.path("no"),
        &Options::new(Codec::Sparse(Amount::Rank(99))).against(&base),
    );
    assert!(message.unwrap_err().to_string().contains("at most rank"));
}

#[test]
fn an_adapters_largest_entries_are_stored() {
    let place = Place::new();
    let adapter = place.adapter(Dtype::F32);
    let codec = Codec::Sparse(Amount::Rank(3));
    let report = compress(&adapter, &place.path("sparse"), &Options::new(codec)).unwrap();
    let text = std::fs::read_to_string(place.path("sparse").join(CONFIG_FILE)).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&config["peft_type"], &config["r"]),
        (&json!("SHIRA"), &json!(3))
    );
    assert!(report.notes.is_empty(), "{:?}", report.notes);
    let files = TensorFiles::open(&place.path("sparse").join(TENSOR_FILE)).unwrap();
    let indices = files
        .info(&format!("{MODEL}layers.0.q.shira_indices"))
        .unwrap();
    assert_eq!(
        (indices.dtype, &indices.shape),
        (Dtype::I32, &vec![2, 3 * 70])
    );
}
