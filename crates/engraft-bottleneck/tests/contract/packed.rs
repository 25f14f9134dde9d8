//! A packed Bi-AdaptFormer on disk.

use burn::tensor::{DType, Device};
use engraft_bottleneck::{BiAdaptFormerConfig, Form};
use engraft_core::{Adapted, AnyMethod, Injection, LayerShape, Mode, file};
use engraft_testkit::{Harness, compare, random};

const WIDTH: usize = 24;

fn model() -> Adapted<Harness> {
    let layer = LayerShape::linear("", 16, WIDTH, true);
    Adapted::new(Harness::new(
        &layer,
        0,
        &Device::default().autodiff(),
        DType::F32,
    ))
}

#[test]
fn a_packed_adapter_is_as_small_as_stated_and_computes_the_same() {
    for bits in [1, 2, 3, 8] {
        let config = BiAdaptFormerConfig {
            bits,
            width: 8,
            ..BiAdaptFormerConfig::default()
        };
        let mut trained = model();
        let injection = Injection::new(1);
        let method = AnyMethod::new(&config).unwrap();
        trained.attach("task", &method, &injection).unwrap();
        let trained = random::perturb_trained(trained, 0.1, 2);
        let x = random::normal([3, 2, 16], "x", &Device::default().autodiff(), DType::F32);
        let output = |model: &Adapted<Harness>| {
            model
                .model
                .forward(x.clone(), &model.ctx(Mode::Eval))
                .detach()
        };

        let (config, tensors) = config.pack(&trained.adapter_tensors("task").unwrap());
        assert_eq!(config.form, Form::Packed);
        let bytes: usize = tensors.values().map(|data| data.as_bytes().len()).sum();
        assert_eq!(bytes, config.packed_bytes(WIDTH));
        assert_eq!(bytes, 2 * (WIDTH * 8 * bits / 8 + 8));

        let mut packed = model();
        let method = AnyMethod::new(&config).unwrap();
        packed
            .restore("task", &method, &injection, &tensors)
            .unwrap();
        compare::close("packed", &output(&packed), &output(&trained), 40).unwrap();
        assert!(packed.trainable().is_empty());

        let directory =
            std::env::temp_dir().join(format!("engraft-packed-{}-{bits}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("adapter.safetensors");
        packed.save_adapter("task", &path).unwrap();
        let (written, _) = file::read_tensors(&path).unwrap();
        let stored: usize = written.values().map(|data| data.as_bytes().len()).sum();
        assert_eq!(stored, bytes);
        let mut loaded = model();
        let parse = |_: &str, config: &serde_json::Value| {
            let config: BiAdaptFormerConfig = serde_json::from_value(config.clone()).unwrap();
            AnyMethod::new(&config)
        };
        loaded.load_adapter(&path, parse).unwrap();
        compare::identical("loaded", &output(&loaded), &output(&packed)).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
