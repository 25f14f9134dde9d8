//! An experiment from beginning to end: trials, final runs, measurements, table, plot, report.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    executor::{Cost, Executor},
    measure,
    plan::{Options, Plan, Selection},
    plot::Figure,
    pool::{self, Launcher},
    progress::Meter,
    provenance::Provenance,
    record::RunRecord,
    render, report,
    results::{self, Results},
    schema::Experiment,
    spec::RunSpec,
    store::{Loaded, Store, write_atomic},
    table::Table,
};

/// How to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the command line changes in the plan.
    pub options: Options,
    /// The directory of results.
    pub out: PathBuf,
    /// Workers at once.
    pub jobs: usize,
    /// Whether finished runs are repeated.
    pub fresh: bool,
}

impl Settings {
    /// The directory of records below the directory of results.
    #[must_use]
    pub fn records(out: &Path) -> PathBuf {
        out.join("runs")
    }
}

/// What an experiment ended with.
#[derive(Debug)]
pub struct Summary {
    /// The table.
    pub table: Table,
    /// The files, the directory of records last.
    pub files: Vec<PathBuf>,
    /// Runs and measurements that failed.
    pub failures: Vec<Error>,
}

/// Everything that runs share.
struct Session<'a> {
    executor: &'a dyn Executor,
    launcher: &'a dyn Launcher,
    meter: &'a Meter,
    store: Store,
    jobs: usize,
    fresh: bool,
    records: BTreeMap<String, RunRecord>,
    failures: Vec<Error>,
}

/// Runs an experiment, or what is left of it, and writes its results.
///
/// # Errors
/// Bad input and an unwritable directory. Runs that fail are in the summary: the others count.
pub fn run_experiment(
    name: &str,
    experiment: &Experiment,
    settings: &Settings,
    executor: &dyn Executor,
    launcher: &dyn Launcher,
    meter: &Meter,
) -> Result<Summary> {
    let plan = Plan::new(experiment, &settings.options, executor)?;
    let folder = if settings.options.quick {
        format!("{name}-quick")
    } else {
        name.to_owned()
    };
    let out = settings.out.join(folder);
    fs::create_dir_all(&out).map_err(|error| Error::io("write", &out, &error))?;
    let mut session = Session {
        executor,
        launcher,
        meter,
        store: Store::open(&Settings::records(&settings.out))?,
        jobs: settings.jobs,
        fresh: settings.fresh,
        records: BTreeMap::new(),
        failures: Vec::new(),
    };

    let trials = plan.trials();
    meter.restart(trials.len() + plan.count_finals(), "runs");
    session.execute(&trials)?;
    let selection =
        plan.select(|spec| Some(session.records.get(&spec.key())?.outcome.val_accuracy));
    session.execute(&plan.finals(&selection))?;
    let costs = session.measure(&plan, &selection)?;
    meter.finish();

    let record = |spec: &RunSpec| session.records.get(&spec.key());
    let results = results::collect(&plan, &selection, record, |method| {
        costs.get(&method).copied()
    });
    let title = if settings.options.quick {
        format!(
            "{} (quick: few steps, one domain, not a result)",
            experiment.tables.title
        )
    } else {
        experiment.tables.title.clone()
    };
    let table = Table::new(&title, &plan, &results);
    let contents = report::Contents {
        experiment,
        plan: &plan,
        selection: &selection,
        results: &results,
        table: &table,
        records: &session.records,
        provenance: Provenance::collect(experiment.path.parent().unwrap_or(Path::new("."))),
    };
    let mut files = write(&out, &table, &results, &contents)?;
    files.push(session.store.directory().to_owned());
    Ok(Summary {
        table,
        files,
        failures: session.failures,
    })
}

impl Session<'_> {
    /// Does the runs that have no usable record yet and takes in the records of all.
    fn execute(&mut self, specs: &[RunSpec]) -> Result<()> {
        let mut pending = Vec::new();
        for spec in specs {
            match self.finished(spec)? {
                Some(record) => {
                    self.records.insert(record.key.clone(), record);
                }
                None => pending.push(spec.clone()),
            }
        }
        let found = specs.len() - pending.len();
        if found > 0 {
            self.meter.skip(found);
            self.meter.say(&format!(
                "{found} of {} runs were finished before and are not repeated",
                specs.len()
            ));
        }
        let observe = |event: pool::Event<'_>| self.meter.observe(event);
        let failures = pool::run_all(&pending, self.jobs, &self.store, self.launcher, &observe)?;
        for (spec, error) in failures {
            pending.retain(|other| *other != spec);
            self.failures.push(error);
        }
        for spec in pending {
            match self.store.load_run(&spec.key())? {
                Loaded::Found(record) => {
                    self.records.insert(record.key.clone(), record);
                }
                Loaded::Missing => self
                    .failures
                    .push(Error::Run(format!("{}: it left no record", spec.label()))),
                Loaded::Damaged(message) => self.failures.push(Error::Run(message)),
            }
        }
        Ok(())
    }

    /// The usable record of an earlier run.
    fn finished(&self, spec: &RunSpec) -> Result<Option<RunRecord>> {
        if self.fresh {
            return Ok(None);
        }
        match self.store.load_run(&spec.key())? {
            Loaded::Found(record) => {
                let model = self.executor.model_info(&spec.model, &spec.task.data)?;
                Ok(record.is_current(&model).then_some(record))
            }
            Loaded::Missing => Ok(None),
            Loaded::Damaged(message) => {
                self.meter.say(&format!("warning: {message}"));
                Ok(None)
            }
        }
    }

    /// Measures methods one after the other; the cost of each by its place in the plan.
    fn measure(&mut self, plan: &Plan, selection: &Selection) -> Result<BTreeMap<usize, Cost>> {
        let measured = plan.measured(selection);
        self.meter.restart(measured.len(), "measurements");
        let mut costs = BTreeMap::new();
        for (method, spec) in measured {
            match measure::cost(&spec, self.fresh, &self.store, self.launcher) {
                Ok(cost) => {
                    costs.insert(method, cost);
                }
                Err(
                    error @ Error::Io {
                        action: "write", ..
                    },
                ) => return Err(error),
                Err(error) => {
                    self.failures
                        .push(Error::Run(format!("measuring {}: {error}", spec.label())));
                }
            }
            self.meter.advance(&spec.label());
        }
        Ok(costs)
    }
}

fn write(
    out: &Path,
    table: &Table,
    results: &Results,
    contents: &report::Contents<'_>,
) -> Result<Vec<PathBuf>> {
    let figure = Figure::new(results);
    let texts = [
        ("table.md", render::markdown(table)),
        ("table.csv", render::csv(table)),
        ("table.tex", render::latex(table)),
        ("plot.svg", figure.svg()?),
        ("report.html", report::html(contents, &figure.inline_svg()?)),
    ];
    let mut files = Vec::new();
    for (name, text) in texts {
        files.push(out.join(name));
        write_atomic(&out.join(name), text.as_bytes())?;
    }
    let png = out.join("plot.png");
    figure.write_png(&png)?;
    files.insert(4, png);
    Ok(files)
}
