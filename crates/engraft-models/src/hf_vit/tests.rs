use burn::tensor::{DType, Device, Tensor};
use engraft_core::{AnySite, Ctx};
use engraft_tensor::{Init, Key};

use crate::pretrained::Pretrained;
use crate::testing::{Case, Prompt, agrees_with_its_shapes, attach, fixture, tolerances, vectors};

#[test]
fn golden_vectors() {
    let case = Case::load(&vectors("vit"));
    let pixels = case.floats("in.pixel_values");
    let output = case.model.forward_image(pixels, &Ctx::default()).unwrap();
    let tolerances = tolerances("model__vit");
    let hidden = "out.last_hidden_state";
    case.agrees(hidden, &output.hidden, tolerances[hidden]);
    let pooled = "out.pooler_output";
    case.agrees(pooled, &output.pooled.unwrap(), tolerances[pooled]);
    assert!(output.logits.is_none());
    agrees_with_its_shapes(case.model);
}

#[test]
fn oblong_images_and_other_poolers() {
    let case = Case::load(&fixture("vit_cls"));
    let pixels = case.floats("in.pixels");
    let output = case.model.forward_image(pixels, &Ctx::default()).unwrap();
    let logits = output.logits.unwrap().sequence().unwrap();
    case.agrees("out.logits", &logits, case.usual("out.logits"));
    agrees_with_its_shapes(case.model);

    let case = Case::load(&fixture("vit_pooled"));
    let pixels = case.floats("in.pixels");
    let output = case.model.forward_image(pixels, &Ctx::default()).unwrap();
    let pooled = "out.pooler_output";
    case.agrees(pooled, &output.pooled.unwrap(), case.usual(pooled));
    agrees_with_its_shapes(case.model);
}

#[test]
fn prompts_of_blocks_are_dropped_before_the_head() {
    let mut case = Case::load(&vectors("vit"));
    let pixels = case.floats::<4>("in.pixel_values");
    let ctx = Ctx::default();
    let plain = case.model.forward_image(pixels.clone(), &ctx).unwrap();
    attach(&mut case.model, |path| {
        let init = Init::Normal { std: 1.0 };
        let prompt = init.tensor([3, 32], &Key::new(1), &Device::default(), DType::F32);
        path.ends_with("sites.sequence")
            .then(|| AnySite::new(Prompt::new(prompt)))
    });
    let output = case.model.forward_image(pixels, &ctx).unwrap();
    assert_eq!(output.hidden.dims(), plain.hidden.dims());
    let apart = (output.hidden - plain.hidden).abs().max();
    assert!(apart.into_scalar::<f64>() > 1e-3);
}

#[test]
fn images_that_do_not_fit_are_errors() {
    let case = Case::load(&vectors("vit"));
    let image = |shape: [usize; 4]| Tensor::zeros(shape, &Device::default());
    let ctx = Ctx::default();
    let message = |shape| {
        let error = case.model.forward_image(image(shape), &ctx).unwrap_err();
        error.to_string()
    };
    assert!(message([1, 1, 16, 16]).contains("1 channels"));
    assert!(message([1, 3, 16, 12]).contains("16 x 12"));
    let text = engraft_core::Text::new(Tensor::zeros([1, 2], &Device::default()));
    assert!(case.model.forward(&text, &ctx).is_err());

    let refused = |config: &str| {
        let device = Device::default();
        let made = Pretrained::random(config, &Key::new(0), &device, DType::F32);
        made.unwrap_err().to_string()
    };
    let config = case.model.config_json().to_string();
    assert!(
        refused(&config.replace("\"patch_size\":4", "\"patch_size\":0")).contains("patch_size 0")
    );
    assert!(
        refused(&config.replace("\"patch_size\":4", "\"patch_size\":17"))
            .contains("at most image_size")
    );
    assert!(
        refused(&config.replace("ViTModel", "ViTForMaskedImageModeling"))
            .contains("ViTForImageClassification")
    );
}
