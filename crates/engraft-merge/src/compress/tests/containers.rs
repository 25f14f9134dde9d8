//! What comes out of a container.

use super::fixtures::*;

#[test]
fn errors_are_those_of_the_report() {
    for dtype in [Dtype::F32, Dtype::BF16] {
        for codec in codecs() {
            let place = Place::new();
            let adapter = place.adapter(dtype);
            let options = Options {
                keep: vec!["head".to_owned()],
                ..Options::new(codec)
            };
            let report = compress(&adapter, &place.path("small"), &options).unwrap();
            let back = decompress(&place.path("small"), &place.path("back"), None).unwrap();
            assert_eq!(back.error, report.error);
            assert!(place.path("back").join("README.md").exists());
            let (before, after) = (
                numbers(&adapter.join(TENSOR_FILE)),
                numbers(&place.path("back").join(TENSOR_FILE)),
            );
            assert_eq!(
                before[&format!("{MODEL}head.weight")],
                after[&format!("{MODEL}head.weight")]
            );
            let (mut error, mut whole) = (0.0, 0.0);
            for tensor in report.tensors.iter().filter(|tensor| tensor.how != "exact") {
                let (x, y) = (&before[&tensor.name], &after[&tensor.name]);
                let own = distance(x, y) / distance(x, &vec![0.0; x.len()]);
                assert!(
                    (own - tensor.error.unwrap()).abs() <= 1e-9,
                    "{codec:?} {}",
                    tensor.name
                );
                error += distance(x, y).powi(2);
                whole += distance(x, &vec![0.0; x.len()]).powi(2);
            }
            assert!((report.error - f64::sqrt(error / whole)).abs() <= 1e-9);
            // One bit between extremes is worse than nothing.
            let coarse = matches!(codec, Codec::Quantised(how) if how.bits == 1);
            assert!(
                report.error > 0.0 && (report.error < 1.0 || coarse),
                "{codec:?} {}",
                report.error
            );
        }
    }
}

#[test]
fn compeft_over_the_whole_is_one_ternary_vector() {
    let place = Place::new();
    let adapter = place.adapter(Dtype::F32);
    let compeft = Compeft {
        density: 0.2,
        magnitude: Magnitude::Deviation(1.5),
        scope: Scope::Whole,
    };
    compress(
        &adapter,
        &place.path("small"),
        &Options::new(Codec::Compeft(compeft)),
    )
    .unwrap();
    decompress(&place.path("small"), &place.path("back"), None).unwrap();
    let before = numbers(&adapter.join(TENSOR_FILE));
    let after = numbers(&place.path("back").join(TENSOR_FILE));
    let all: Vec<f64> = before.values().flatten().map(|x| f64::from(*x)).collect();
    let n = all.len() as f64;
    let mean = all.iter().sum::<f64>() / n;
    let deviation = (all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    let mut sorted: Vec<f64> = all.iter().map(|x| x.abs()).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let threshold = sorted[(0.2 * n).round() as usize - 1];
    for (name, values) in &before {
        for (x, y) in values.iter().zip(&after[name]) {
            let expected = match f64::from(x.abs()) >= threshold {
                true => (f64::from(x.signum()) * 1.5 * deviation) as f32,
                false => 0.0,
            };
            assert!(
                (y - expected).abs() <= 1e-6 * expected.abs(),
                "{name}: {x} {y} {expected}"
            );
        }
    }
}

#[test]
fn files_of_random_updates_are_as_small_as_the_formula() {
    let place = Place::new();
    let tensors: Tensors = (0..4)
        .map(|at| {
            (
                format!("t{at}"),
                Dtype::F32,
                vec![256, 512],
                normal(256 * 512, at),
            )
        })
        .collect();
    let input = place.path("random.safetensors");
    save(&input, &tensors);
    for scope in [Scope::Whole, Scope::Tensor] {
        for density in [0.01, 0.05, 0.1, 0.2, 0.3, 0.38, 0.5] {
            let codec = Codec::Compeft(Compeft {
                density,
                scope,
                ..Compeft::default()
            });
            let out = place.path(&format!("{scope:?}{density}"));
            let report = compress(&input, &out, &Options::new(codec)).unwrap();
            let d = 4 * 256 * 512;
            let formula = entropy_bits((density * d as f64).round() as usize, d) + 16.0;
            let predicted = report.predicted.unwrap();
            assert!(
                (predicted / formula - 1.0).abs() < 2e-3,
                "{predicted} {formula}"
            );
            let bits = report.bits as f64;
            assert!(
                (bits / formula - 1.0).abs() < 0.02,
                "{density}: {}",
                bits / formula
            );
            // The header is not in the formula: about 100 bytes a tensor and the manifest.
            let file = 8.0 * report.bytes_out as f64;
            assert!(file < 1.02 * formula + 8.0 * 1500.0);
        }
    }
}

#[test]
fn what_is_lossless_is_exact() {
    for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16] {
        let place = Place::new();
        let [base, tuned] = checkpoints(place.directory.path(), dtype);
        let options = Options::new(Codec::Delta).against(&base);
        let report = compress(&tuned, &place.path("small"), &options).unwrap();
        assert_eq!(report.error, 0.0);
        assert!(report.bytes_out < report.bytes_in);
        decompress(&place.path("small"), &place.path("back"), Some(&base)).unwrap();
        let file = "model.safetensors";
        assert_eq!(
            bytes(&tuned.join(file)),
            bytes(&place.path("back").join(file))
        );
        let message = decompress(&place.path("small"), &place.path("no"), None).unwrap_err();
        assert!(message.to_string().contains("give `base`"), "{message}");
        let message =
            decompress(&place.path("small"), &place.path("no"), Some(&tuned)).unwrap_err();
        assert!(message.to_string().contains("another base"), "{message}");
        assert!(!place.path("no").exists());
    }
}

#[test]
fn bitdelta_keeps_what_is_no_matrix() {
    let place = Place::new();
    let [base, tuned] = checkpoints(place.directory.path(), Dtype::F32);
    let options = Options::new(Codec::BitDelta).against(&base);
    let report = compress(&tuned, &place.path("small"), &options).unwrap();
    decompress(&place.path("small"), &place.path("back"), Some(&base)).unwrap();
    let file = "model.safetensors";
    let [from, to, back] =
        [&base, &tuned, &place.path("back")].map(|path| numbers(&path.join(file)));
    for name in ["model.embed.weight", "model.k.weight", "model.norm.weight"] {
        assert_eq!(to[name], back[name]);
    }
    for name in ["model.q.weight", "model.v.weight"] {
        let delta: Vec<f32> = to[name]
            .iter()
            .zip(&from[name])
            .map(|(a, b)| a - b)
            .collect();
        let alpha = delta.iter().map(|x| x.abs()).sum::<f32>() / delta.len() as f32;
        for ((w, d), found) in from[name].iter().zip(&delta).zip(&back[name]) {
            let expected = w + if *d < 0.0 { -alpha } else { alpha };
            assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1.0));
        }
    }
    // Of a normal change the signs miss 1 - 2 / pi of the energy.
    let expected = (1.0 - 2.0 / std::f64::consts::PI).sqrt();
    assert!((report.error - expected).abs() < 0.05, "{}", report.error);
}

#[test]
fn a_task_vector_is_coded_against_its_base() {
    let place = Place::new();
    let [base, tuned] = checkpoints(place.directory.path(), Dtype::F32);
    for codec in codecs() {
        let name = format!("{codec:?}");
        let options = Options::new(codec).against(&base);
        let report = compress(&tuned, &place.path(&name), &options).unwrap();
        let out = place.path(&format!("back {name}"));
        decompress(&place.path(&name), &out, Some(&base)).unwrap();
        let file = "model.safetensors";
        let [from, to, back] = [&base, &tuned, &out].map(|path| numbers(&path.join(file)));
        for tensor in &report.tensors {
            let name = &tensor.name;
            let (error, whole) = (
                distance(&to[name], &back[name]),
                distance(&to[name], &from[name]),
            );
            let relative = if error == 0.0 { 0.0 } else { error / whole };
            assert!(
                whole == 0.0 || (relative - tensor.error.unwrap()).abs() <= 1e-4,
                "{name}"
            );
        }
    }
}

#[test]
fn damaged_files_are_refused() {
    let place = Place::new();
    let adapter = place.adapter(Dtype::F32);
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for codec in codecs().into_iter().step_by(3) {
        let small = place.path(&format!("{codec:?}"));
        compress(&adapter, &small, &Options::new(codec)).unwrap();
        let whole = std::fs::read(small.join(COMPRESSED)).unwrap();
        let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize + 8;
        for _ in 0..40 {
            let mut damaged = whole.clone();
            match random.random_range(0..3) {
                0 => damaged.truncate(random.random_range(0..whole.len())),
                // The filling of a last byte stands for nothing.
                1 => damaged[random.random_range(header..whole.len())] ^= 0xff,
                _ => damaged[random.random_range(0..8)] ^= 1 << random.random_range(0..8),
            }
            std::fs::write(place.path("damaged"), &damaged).unwrap();
            let result = decompress(&place.path("damaged"), &place.path("no"), None);
            let message = result.expect_err("it is damaged").to_string();
            assert!(message.contains("damaged"), "{message}");
            assert!(!place.path("no").exists());
        }
    }
    let left: Vec<_> = std::fs::read_dir(place.directory.path()).unwrap().collect();
    let is_hidden = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with('.');
    assert!(
        left.into_iter()
            .all(|entry| !is_hidden(&entry.unwrap().file_name()))
    );
}

#[test]
fn what_cannot_be_done_is_said() {
    let place = Place::new();
    let adapter = place.adapter(Dtype::F32);
    let [base, _] = checkpoints(place.directory.path(), Dtype::F32);
    let options = Options::new(Codec::Compeft(Compeft::default()));
    let refused = |input: &Path, options: &Options, what: &str| {
        let message = compress(input, &place.path("no"), options)
            .unwrap_err()
            .to_string();
        assert!(message.contains(what), "{message}");
        assert!(!place.path("no").exists());
    };
    refused(&place.path("nothing"), &options, "no such file");
    refused(&adapter, &Options::new(Codec::Delta), "give `base`");
    refused(
        &adapter,
        &options.clone().against(&base),
        "has none of the tensors",
    );
    refused(
        &base,
        &Options::new(Codec::Svd(Rank::Fixed(2))),
        "with its `base`",
    );
    let density = |density| {
        Options::new(Codec::Compeft(Compeft {
            density,
            ..Compeft::default()
        }))
    };
    for bad in [0.0, -1.0, 1.5, f64::NAN] {
        refused(&adapter, &density(bad), "density");
    }
    let bits = Codec::Quantised(Quantised {
        bits: 9,
        ..Quantised::default()
    });
    refused(&adapter, &Options::new(bits), "expected 1 to 8");
    let message = compress(&adapter, &adapter, &options)
        .unwrap_err()
        .to_string();
    assert!(message.contains("is not empty"), "{message}");
    let message = decompress(&adapter, &place.path("no"), None)
        .unwrap_err()
        .to_string();
    assert!(message.contains("no compressed adapter"), "{message}");
    let file = adapter.join(TENSOR_FILE);
    let message = decompress(&file, &place.path("no"), None)
        .unwrap_err()
        .to_string();
    assert!(message.contains("is no compressed adapter"), "{message}");
    compress(&adapter, &place.path("small"), &options).unwrap();
    refused(&place.path("small"), &options, "is compressed");
    let mut tensors: Tensors = vec![("x".into(), Dtype::F32, vec![2], vec![1.0, f32::NAN])];
    save(&place.path("nan"), &tensors);
    refused(&place.path("nan"), &options, "expected finite numbers");
    tensors[0].3[1] = 2.0;
    save(&place.path("nan"), &tensors);
    let only = Options {
        keep: vec!["x".to_owned()],
        ..options
    };
    refused(&place.path("nan"), &only, "no tensor is left");
}
