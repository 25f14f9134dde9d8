use burn::tensor::{DType, Device, Tensor};
use engraft_core::*;
use engraft_tensor::bridge;
use serde_json::Value;
fn t<const D: usize>(c: &Value, k: &str, dev: &Device) -> Tensor<D> {
    let e = &c["t"][k];
    assert!(!e.is_null(), "{k}");
    let shape: Vec<usize> = e["shape"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect();
    let v: Vec<f64> = e["v"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    bridge::tensor(v, shape.try_into().unwrap(), dev, DTYPE)
}
const DTYPE: DType = DType::F32;
fn has(c: &Value, k: &str) -> bool { !c["t"][k].is_null() }
fn check(c: &Value, k: &str, found: &[f64]) {
    let e: Vec<f64> = c["t"][k]["v"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert_eq!(e.len(), found.len());
    let (rtol, atol) = (c["tol"][k]["rtol"].as_f64().unwrap(), c["tol"][k]["atol"].as_f64().unwrap());
    let worst = e.iter().zip(found).map(|(e, f)| (e - f).abs() / (atol + rtol * e.abs())).fold(0.0f64, f64::max);
    println!("{} {k} worst/tol {worst:.3}", c["id"]);
    assert!(worst <= 1.0, "{} {k} {worst}", c["id"]);
}
use engraft_butterfly::*;
use burn::module::Param;
enum A { O(Oft), B(Boft) }
#[test]
fn golden() {
    let dev = Device::default().autodiff();
    let cases: Vec<Value> = serde_json::from_reader(std::fs::File::open("/tmp/kbg/cases.json").unwrap()).unwrap();
    for c in &cases {
        let id = c["id"].as_str().unwrap();
        if id.starts_with("lokr") { continue; }
        let dims = c["net"]["dims"].as_array().unwrap();
        let x3: Tensor<3> = t(c, "in.x", &dev);
        let [a, b, d] = x3.dims();
        let x = x3.reshape([a * b, d]).detach().require_grad();
        let mut h = x.clone();
        let mut adapters = vec![];
        for l in 1..dims.len() {
            if l > 1 { h = burn::tensor::activation::relu(h); }
            let w: Tensor<2> = t(c, &format!("base.fc{l}.weight"), &dev);
            let bias = has(c, &format!("base.fc{l}.bias")).then(|| t::<1>(c, &format!("base.fc{l}.bias"), &dev));
            let base = FrozenBase::new(w.transpose(), bias);
            let m = format!("base_model.model.fc{l}");
            let cfg = &c["cfg"];
            let merged_key = format!("merged.fc{l}.weight");
            if id.starts_with("oft") {
                let q: Tensor<2> = t(c, &format!("adapter.{m}.oft_R.weight"), &dev);
                let size = c["attr"][&m]["oft_block_size"].as_u64().unwrap() as usize;
                let cayley = if cfg["use_cayley_neumann"].as_bool().unwrap() { Cayley::Neumann { terms: cfg["num_cayley_neumann_terms"].as_u64().unwrap() as usize } } else { Cayley::Exact };
                let eps = cfg["coft"].as_bool().unwrap().then(|| cfg["eps"].as_f64().unwrap());
                let mut o = Oft::new(q.clone(), size, cayley, eps);
                o.q = Param::from_tensor(q.require_grad());
                h = o.forward(h, &base, &Ctx::default());
                check(c, &merged_key, &bridge::values(&o.effective(&base, &Ctx::default()).unwrap().weight.transpose()));
                adapters.push((m, A::O(o)));
            } else {
                let s: Tensor<2> = t(c, &format!("adapter.{m}.boft_s"), &dev);
                let n = s.dims()[0];
                let o = Boft { a: Param::from_tensor(t(c, &format!("adapter.{m}.boft_R"), &dev)), s: Param::from_tensor(s.reshape([n])), dropout: 0.0 };
                h = o.forward(h, &base, &Ctx::default());
                check(c, &merged_key, &bridge::values(&o.effective(&base, &Ctx::default()).unwrap().weight.transpose()));
                adapters.push((m, A::B(o)));
            }
        }
        check(c, "out.y", &bridge::values(&h));
        let [n, o] = h.dims();
        let g: Tensor<3> = t(c, "in.g", &dev);
        let grads = (h * g.reshape([n, o])).sum().backward();
        check(c, "grad.in.x", &bridge::values(&x.grad(&grads).unwrap()));
        for (m, ad) in &adapters {
            match ad {
                A::O(o) => check(c, &format!("grad.{m}.oft_R.weight"), &bridge::values(&o.q.val().grad(&grads).unwrap())),
                A::B(o) => {
                    check(c, &format!("grad.{m}.boft_R"), &bridge::values(&o.a.val().grad(&grads).unwrap()));
                    check(c, &format!("grad.{m}.boft_s"), &bridge::values(&o.s.val().grad(&grads).unwrap()));
                }
            }
        }
    }
}
#[test]
fn timing() {
    let dev = Device::default().autodiff();
    for (name, any) in [("oft b32", AnyMethod::new(&OftConfig::default())), ("boft", AnyMethod::new(&BoftConfig::default()))] {
        let any = any.unwrap();
        let k = engraft_tensor::Key::new(1);
        let w: Tensor<2> = engraft_tensor::Init::Normal { std: 0.03 }.tensor([768, 768], &k, &dev, DTYPE);
        let x: Tensor<2> = engraft_tensor::Init::Normal { std: 1.0 }.tensor([512, 768], &k, &dev, DTYPE);
        let base = FrozenBase::new(w, None);
        let bank = Bank::default();
        let ad = any.parts().graft.as_ref().unwrap().init(&base, &InitContext::new(1, "l", "a", &base, &bank)).unwrap();
        for _ in 0..4 {
            let t0 = std::time::Instant::now();
            let y = ad.forward(x.clone(), &base, &Ctx::default());
            let t1 = std::time::Instant::now();
            let s = y.sum().backward();
            let t2 = std::time::Instant::now();
            let _ = bridge::values(&base.forward(x.clone()).sum());
            println!("{name}: fwd {:?} bwd {:?} base fwd {:?}", t1 - t0, t2 - t1, t2.elapsed());
            drop(s);
        }
        let q = Tensor::<2>::zeros([768 / 8, 28], (&dev, DTYPE));
        let t0 = std::time::Instant::now();
        let _ = bridge::values(&Cayley::Exact.rotations(skew_from_upper(q, 8)).sum());
        println!("cayley 96x8x8 {:?}", t0.elapsed());
        let q = Tensor::<2>::zeros([24, 31*16], (&dev, DTYPE));
        let t0 = std::time::Instant::now();
        let _ = bridge::values(&Cayley::Exact.rotations(skew_from_upper(q, 32)).sum());
        println!("cayley 24x32x32 {:?}", t0.elapsed());
    }
}
