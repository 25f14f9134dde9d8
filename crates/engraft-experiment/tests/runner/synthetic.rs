//! An executor that invents accuracies from the hash of a run, and the experiment it runs.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use engraft_experiment::{
    Error, Result,
    executor::{Cost, Counts, Executor, MethodInfo, ModelInfo, Outcome, Point, Progress},
    plan::Options,
    pool::{InProcess, Launcher},
    progress::Meter,
    provenance::Provenance,
    run::{Settings, Summary, run_experiment},
    schema::Experiment,
    spec::{BASE, FULL, MethodSpec, ModelSpec, RunSpec},
};
use serde_json::json;
use tempfile::TempDir;

pub const EXPERIMENT: &str = r#"title = "Synthetic"
description = "Nothing is trained."
[model]
preset = "tiny"
[task]
data = "digits"
domains = ["turned", "noisy"]
labels_per_class = 10
[protocol]
seeds = [0, 1, 2]
trial_seeds = [100]
steps = 20
batch_size = 10
optimizer = "adamw"
schedule = "cosine"
[quick]
steps = 5
seeds = 1
[[method]]
id = "lora"
label = "LoRA"
config = { rank = 4 }
learning_rates = [0.001, 0.01]
published = 75.0
[[method]]
id = "boft"
learning_rates = [0.001, 0.01]
[[method]]
id = "full"
learning_rates = [0.0001, 0.001]
"#;

/// Trials and final runs of [`EXPERIMENT`]: 3 methods x 2 domains x 2 rates, 4 rows x 2 x 3 seeds.
pub const TRIALS: usize = 12;
pub const RUNS: usize = TRIALS + 24;

#[derive(Default)]
pub struct Synthetic {
    /// Runs executed.
    pub executed: AtomicUsize,
    /// From this run on everything fails.
    pub fails_after: Option<usize>,
    /// A method whose run ends the process.
    pub aborts: Option<String>,
    /// How long a run takes.
    pub pause: Duration,
    pub weights: String,
}

impl Synthetic {
    pub fn count(&self) -> usize {
        self.executed.load(Ordering::Relaxed)
    }
}

/// A number between 0 and 1 that depends on the run alone.
fn noise(spec: &RunSpec) -> f64 {
    let bits = u32::from_str_radix(&spec.key()[..8], 16).unwrap();
    f64::from(bits) / f64::from(u32::MAX)
}

impl Executor for Synthetic {
    fn model_info(&self, _: &ModelSpec, _: &str) -> Result<ModelInfo> {
        Ok(ModelInfo {
            parameters: 100_000,
            weights_sha256: self.weights.clone(),
            data_sha256: "d".into(),
        })
    }

    fn method(&self, method: &MethodSpec) -> Result<MethodInfo> {
        let family = match method.id.as_str() {
            BASE | FULL => "baseline",
            "lora" => "low-rank",
            "boft" => "butterfly",
            other => return Err(Error::unknown("method", other, &["boft", "full", "lora"])),
        };
        let mut resolved = method.clone();
        resolved.targets = json!("all-linear");
        Ok(MethodInfo {
            family: family.into(),
            resolved,
        })
    }

    fn validate(&self, spec: &RunSpec) -> Result<()> {
        let domains = ["noisy", "turned"];
        if domains.contains(&spec.task.domain.as_str()) {
            Ok(())
        } else {
            Err(Error::unknown("domain", &spec.task.domain, &domains))
        }
    }

    fn execute(&self, spec: &RunSpec, observe: &mut dyn FnMut(Progress)) -> Result<Outcome> {
        let before = self.executed.fetch_add(1, Ordering::Relaxed);
        if self.fails_after.is_some_and(|limit| before >= limit) {
            return Err(Error::Run("pulled the plug".into()));
        }
        if self.aborts.as_ref() == Some(&spec.method.id) {
            eprintln!("last words of a worker");
            std::process::abort();
        }
        thread::sleep(self.pause);
        let steps = spec.optimizer.steps;
        observe(Progress { step: steps, steps });
        let trainable = match spec.method.id.as_str() {
            BASE => 0,
            FULL => 99_000,
            "lora" => 2048,
            _ => 800,
        };
        // On "turned" the larger rate is better, on "noisy" the smaller.
        let sign = if spec.task.domain == "turned" {
            1.0
        } else {
            -1.0
        };
        let accuracy = 0.7 + 0.02 * noise(spec);
        Ok(Outcome {
            structure: Default::default(),
            val_accuracy: accuracy + sign * spec.optimizer.learning_rate.ln().max(-20.0) / 50.0,
            test_accuracy: accuracy,
            train_loss: (0..steps)
                .map(|step| Point {
                    step,
                    value: 1.0 / (1.0 + step as f64),
                })
                .collect(),
            validation: vec![
                Point {
                    step: 0,
                    value: 0.1,
                },
                Point {
                    step: steps,
                    value: f64::NAN,
                },
            ],
            counts: Counts {
                trainable,
                stored: trainable,
                head: 650,
                total: 100_000,
                ..Counts::default()
            },
        })
    }

    fn measure(&self, spec: &RunSpec) -> Result<Cost> {
        Ok(Cost {
            step_seconds: 0.001 + noise(spec),
            peak_bytes: Some(50 << 20),
        })
    }
}

/// A directory of results and what runs in it.
pub struct Bench {
    pub directory: TempDir,
    pub options: Options,
    pub fresh: bool,
    pub text: String,
}

impl Bench {
    pub fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            options: Options::default(),
            fresh: false,
            text: EXPERIMENT.to_owned(),
        }
    }

    pub fn out(&self) -> PathBuf {
        self.directory.path().join("results")
    }

    pub fn run(&self, executor: &Synthetic) -> Result<Summary> {
        let provenance = Provenance::collect(self.directory.path());
        self.run_with(
            executor,
            &InProcess {
                executor,
                provenance,
            },
        )
    }

    pub fn run_with(&self, executor: &Synthetic, launcher: &dyn Launcher) -> Result<Summary> {
        run(
            &self.text,
            &self.out(),
            self.options.clone(),
            self.fresh,
            executor,
            launcher,
        )
    }
}

pub fn run(
    text: &str,
    out: &Path,
    options: Options,
    fresh: bool,
    executor: &Synthetic,
    launcher: &dyn Launcher,
) -> Result<Summary> {
    let experiment = Experiment::parse(Path::new("synthetic.toml"), text.to_owned())?;
    let settings = Settings {
        options,
        out: out.to_owned(),
        jobs: 2,
        fresh,
    };
    run_experiment(
        "synthetic",
        &experiment,
        &settings,
        executor,
        launcher,
        &Meter::silent(),
    )
}
