//! Every registered graft on every layer of `shapes.toml`: activation form, weight form, and the
//! frozen layer alone in the same group.

use criterion::{
    BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use engraft_benches::{Layer, Shapes, Step};
use engraft_core::{AnyMethod, LayerShape};

fn steps(criterion: &mut Criterion) {
    for layer in Shapes::load().layer {
        let Layer {
            tokens,
            d_in,
            d_out,
        } = layer;
        let mut group = criterion.benchmark_group(format!("step/{tokens}x{d_in}x{d_out}"));
        group.sample_size(10);
        let frozen = Step::new(layer, None);
        group.bench_function("frozen", |bencher| {
            bencher.iter(|| frozen.activation_form())
        });
        let shape = LayerShape::linear("layer", d_in, d_out, false);
        for entry in engraft::METHODS {
            if let Some(method) = admitted(entry, &shape) {
                forms(&mut group, layer, &method);
            }
        }
        group.finish();
    }
}

/// The method's default configuration, or its first example where the layer does not admit it.
fn admitted(entry: &engraft_core::MethodEntry, shape: &LayerShape) -> Option<AnyMethod> {
    let default = entry.parse(&serde_json::Value::Null).ok();
    let fits = |method: &AnyMethod| {
        method
            .parts()
            .graft
            .as_ref()
            .is_some_and(|graft| graft.admits(shape).is_ok())
    };
    default.into_iter().chain(entry.examples(shape)).find(fits)
}

fn forms(group: &mut BenchmarkGroup<'_, WallTime>, layer: Layer, method: &AnyMethod) {
    let step = Step::new(layer, Some(method));
    let id = method.meta().id;
    group.bench_function(format!("{id}/activation"), |bencher| {
        bencher.iter(|| step.activation_form())
    });
    group.bench_function(format!("{id}/weight"), |bencher| {
        bencher.iter(|| step.weight_form())
    });
}

criterion_group!(benches, steps);
criterion_main!(benches);
