//! Runs of an experiment: one for each method and seed, kept by the hash of all that decides them.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Mutex, time::Instant};

use burn::tensor::Device;
use engraft_core::Ctx;
use engraft_merge::arithmetic::{Difference, Form, Operand};
use engraft_models::{DIGITS_VIT, Vit, digits_vit};
use engraft_train::{Labelled, accuracy};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    data::Source,
    results::Results,
    schema::{BASE, Composition, Method, Tables},
    sum::applied,
    table,
    train::Configured,
};
use crate::{
    error::{Error, Result},
    json,
    progress::Meter,
    provenance::Provenance,
    store::{Loaded, Store, write_atomic},
    table::Table,
};

/// Version of a record.
const FORMAT: u64 = 1;

/// How to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Number of seeds instead of those in the file.
    pub seeds: Option<usize>,
    /// Device instead of the one in the file.
    pub device: Option<String>,
    /// Few steps and seeds.
    pub quick: bool,
    /// The directory of results.
    pub out: PathBuf,
    /// Runs at once.
    pub jobs: usize,
    /// Whether finished runs are repeated.
    pub fresh: bool,
}

/// What an experiment ended with.
#[derive(Debug)]
pub struct Summary {
    /// The rows, and the sums by lambda.
    pub tables: [Table; 2],
    /// The files, the directory of records last.
    pub files: Vec<PathBuf>,
    /// Runs that failed.
    pub failures: Vec<Error>,
}

/// The shares of a row, by measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Scores {
    /// On validation images.
    pub validation: Vec<f64>,
    /// On test images.
    pub test: Vec<f64>,
}

/// A sum of adapters at a lambda.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Swept {
    pub lambda: f64,
    /// The sum of dW.
    pub exact: Scores,
    /// The sum of the factors.
    pub factor_wise: Scores,
    /// |factor-wise - exact| / |exact| of dW in total; nothing where the exact sum is zero.
    pub difference: Option<f64>,
}

/// What a method and a seed come to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub spec: Value,
    /// The base and the adapters, by name.
    pub rows: BTreeMap<String, Scores>,
    pub sweep: Vec<Swept>,
    pub seconds: f64,
}

/// Runs an experiment, or what is left of it, and writes its results.
///
/// # Errors
/// Bad input and an unwritable directory. Runs that fail are in the summary.
pub fn run_composition(
    name: &str,
    experiment: &Composition,
    settings: &Settings,
    meter: &Meter,
) -> Result<Summary> {
    let tables = &experiment.tables;
    let mut seeds = tables.protocol.seeds.get_ref().clone();
    let mut steps = tables.protocol.steps;
    if settings.quick {
        seeds.truncate(tables.quick.seeds.max(1));
        steps = tables.quick.steps;
    }
    if let Some(wanted) = settings.seeds {
        if wanted > seeds.len() {
            let found = seeds.len();
            return Err(Error::Input(format!(
                "--seeds {wanted}: the file has {found}"
            )));
        }
        seeds.truncate(wanted);
    }
    let device = settings.device.as_deref().unwrap_or(&tables.device);
    let host = engraft_tensor::device(device).map_err(|error| Error::Input(error.to_string()))?;
    let methods = tables
        .methods
        .iter()
        .map(Configured::new)
        .collect::<Result<Vec<_>>>()?;
    let folder = match settings.quick {
        true => format!("{name}-quick"),
        false => name.to_owned(),
    };
    let out = settings.out.join(folder);
    fs::create_dir_all(&out).map_err(|error| Error::io("write", &out, &error))?;
    let store = Store::open(&settings.out.join("runs"))?;
    let bench = Bench::new(tables, steps, device, &host)?;

    let runs: Vec<(usize, u64)> = (0..methods.len())
        .flat_map(|method| seeds.iter().map(move |seed| (method, *seed)))
        .collect();
    meter.restart(runs.len(), "runs");
    let queue = Mutex::new(runs.iter());
    let done: Mutex<Vec<(usize, u64, Result<Record>)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..settings.jobs.clamp(1, runs.len()) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no run panics with it").next();
                    let Some((method, seed)) = next.copied() else {
                        break;
                    };
                    let key = bench.spec(&tables.methods[method], seed);
                    let record = bench.record(&methods[method], key, seed, &store, settings.fresh);
                    meter.advance(&format!("{}, seed {seed}", tables.methods[method].label));
                    done.lock()
                        .expect("no run panics with it")
                        .push((method, seed, record));
                }
            });
        }
    });
    meter.finish();
    let (mut records, mut failures) = (vec![Vec::new(); methods.len()], Vec::new());
    let mut done = done.into_inner().expect("all runs ended");
    done.sort_by_key(|(method, seed, _)| (*method, *seed));
    for (method, seed, record) in done {
        match record {
            Ok(record) => records[method].push(record),
            Err(error) if error.exit_code() == 2 => return Err(error),
            Err(error) => {
                let label = &tables.methods[method].label;
                failures.push(Error::Run(format!("{label}, seed {seed}: {error}")));
            }
        }
    }
    let results = Results::new(tables, &records);
    let note = settings
        .quick
        .then_some(" (quick: few steps and seeds, not a result)");
    let title = format!("{}{}", tables.title, note.unwrap_or_default());
    let all = [
        table::rows(&title, tables, &results),
        table::sweep(tables, &results),
    ];
    let provenance = Provenance::collect(experiment.path.parent().unwrap_or(&out));
    let mut files = Vec::new();
    for (file, text) in table::files(experiment, &all, &provenance) {
        files.push(out.join(file));
        write_atomic(&out.join(file), text.as_bytes())?;
    }
    files.push(store.directory().to_owned());
    Ok(Summary {
        tables: all,
        files,
        failures,
    })
}

/// What all runs share.
struct Bench<'a> {
    tables: &'a Tables,
    steps: u64,
    device: &'a str,
    host: &'a Device,
    base: Vit,
    source: Source,
    /// Validation and test examples of each measure.
    measured: Vec<[Labelled; 2]>,
}

impl<'a> Bench<'a> {
    fn new(tables: &'a Tables, steps: u64, device: &'a str, host: &'a Device) -> Result<Self> {
        let base = digits_vit(host).map_err(|error| Error::Run(error.to_string()))?;
        let source = Source::new(&base, host)?;
        let examples = tables
            .measures
            .iter()
            .map(|measure| source.measured(measure));
        let measured = examples
            .map(|both| both.map(|one| Labelled::new(&one, host)))
            .collect();
        Ok(Self {
            tables,
            steps,
            device,
            host,
            base,
            source,
            measured,
        })
    }

    /// All that decides a run.
    fn spec(&self, method: &Method, seed: u64) -> Value {
        let Tables {
            protocol,
            data,
            adapters,
            sum,
            measures,
            ..
        } = self.tables;
        json!({
            "format": FORMAT,
            "engraft": env!("CARGO_PKG_VERSION"),
            "model": json::sha256(DIGITS_VIT),
            "images": self.source.hash(),
            "method": method,
            "seed": seed,
            "steps": self.steps,
            "batch_size": protocol.batch_size,
            "warmup": protocol.warmup,
            "images_per_class": protocol.images_per_class,
            "lambdas": protocol.lambdas.get_ref(),
            "data": data,
            "adapters": adapters,
            "terms": sum.terms,
            "measures": measures,
            "device": self.device,
        })
    }

    /// The record of an earlier run, or of this one.
    fn record(
        &self,
        method: &Configured,
        spec: Value,
        seed: u64,
        store: &Store,
        fresh: bool,
    ) -> Result<Record> {
        let key = json::digest(&spec);
        if !fresh && let Loaded::Found(record) = store.load::<Record>(&key)? {
            return Ok(record);
        }
        let record = self.run(method, spec, seed)?;
        store.save(&key, &record)?;
        Ok(record)
    }

    fn run(&self, method: &Configured, spec: Value, seed: u64) -> Result<Record> {
        let start = Instant::now();
        let tables = self.tables;
        let autodiff = self.host.clone().autodiff();
        let trained = digits_vit(&autodiff).map_err(|error| Error::Run(error.to_string()))?;
        let mut rows = BTreeMap::from([(BASE.to_owned(), self.scores(&self.base))]);
        let mut operands = BTreeMap::new();
        for adapter in &tables.adapters {
            let wanted = |name: &String| tables.data.iter().find(|data| data.name == *name);
            let data: Vec<_> = adapter.data.iter().filter_map(wanted).collect();
            let per_class = tables.protocol.images_per_class;
            let examples = self.source.training(&data, per_class, seed)?;
            let one = (adapter.name.as_str(), &examples);
            let budget = (self.steps, seed);
            let (_, operand) = method.train(&trained, one, &tables.protocol, budget, &autodiff)?;
            let alone = applied(&self.base, &operand)?;
            rows.insert(adapter.name.clone(), self.scores(&alone));
            operands.insert(adapter.name.clone(), operand);
        }
        let lambdas = tables.protocol.lambdas.get_ref().iter();
        let sweep = lambdas.map(|lambda| self.sum(&operands, *lambda));
        Ok(Record {
            spec,
            rows,
            sweep: sweep.collect::<Result<_>>()?,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    fn sum(&self, operands: &BTreeMap<String, Operand>, lambda: f64) -> Result<Swept> {
        let failed = |error: engraft_merge::Error| Error::Run(error.to_string());
        let terms = self.tables.sum.terms.iter();
        let terms: Vec<(f64, &Operand)> = terms
            .map(|term| (term.coefficient(lambda), &operands[&term.adapter]))
            .collect();
        let scores = |form| {
            let sum = Operand::combination(form, &terms).map_err(failed)?;
            Ok::<_, Error>(self.scores(&applied(&self.base, &sum)?))
        };
        let difference = Difference::of(&terms).map_err(failed)?.total();
        Ok(Swept {
            lambda,
            exact: scores(Form::Exact)?,
            factor_wise: scores(Form::FactorWise)?,
            difference: difference.is_finite().then_some(difference),
        })
    }

    fn scores(&self, model: &Vit) -> Scores {
        let share = |examples: &Labelled| {
            let logits = model.forward(examples.images.clone(), &Ctx::default());
            accuracy(logits, examples.labels.clone())
        };
        let of = |part: usize| {
            self.measured
                .iter()
                .map(|both| share(&both[part]))
                .collect()
        };
        Scores {
            validation: of(0),
            test: of(1),
        }
    }
}
