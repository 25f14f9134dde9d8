//! Tasks of GLUE, from their directories.

use std::fs;
use std::path::PathBuf;

use engraft_data::glue::GlueTask;
use engraft_experiment::adapt::{Requests, Settings, adapt, predict};
use serde_json::json;

use crate::adapt::{Disk, WORDS};

/// Writes the rows of `WORDS` as a file of a task.
fn write(disk: &Disk, task: GlueTask, file: &str) -> PathBuf {
    let directory = disk.folder.path().join(task.directory());
    fs::create_dir_all(&directory).unwrap();
    let row = |(at, (text, label)): (usize, (&str, &str))| {
        let good = label == "yes";
        let bit = i32::from(good);
        match task {
            GlueTask::Cola => format!("gj04\t{bit}\t\t{text}\n"),
            GlueTask::Stsb => format!("{at}\tg\tf\t{text}\tso good\t{}.{at}\n", bit * 4),
            GlueTask::Mrpc => format!("{bit}\t7\t8\t{text}\tso good\n"),
            _ => {
                let gold = ["entailment", "neutral", "contradiction"][at % 3];
                format!("{at}\tp\t{text}\tso \"good\t{gold}\n")
            }
        }
    };
    let header = match task {
        GlueTask::Cola => "",
        GlueTask::Stsb => "index\tgenre\tfilename\tsentence1\tsentence2\tscore\n",
        GlueTask::Mrpc => "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n",
        _ => "index\tpromptID\tsentence1\tsentence2\tgold_label\n",
    };
    let rows: Vec<String> = WORDS.into_iter().enumerate().map(row).collect();
    fs::write(directory.join(file), format!("{header}{}", rows.concat())).unwrap();
    directory
}

fn settings(disk: &Disk, data: PathBuf) -> Settings {
    Settings {
        data,
        evaluation: None,
        ..disk.settings("lora", json!({"rank": 2}))
    }
}

#[test]
fn a_task_has_its_files_and_its_metrics() {
    let cases: [(GlueTask, &[&str], &[&str]); 4] = [
        (GlueTask::Cola, &["dev.tsv"], &["matthews"]),
        (GlueTask::Stsb, &["dev.tsv"], &["pearson", "spearman"]),
        (GlueTask::Mrpc, &["dev.tsv"], &["accuracy", "f1"]),
        (
            GlueTask::Mnli,
            &["dev_matched.tsv", "dev_mismatched.tsv"],
            &["accuracy-matched", "accuracy-mismatched"],
        ),
    ];
    for (task, parts, metrics) in cases {
        let disk = Disk::new("bert");
        let directory = write(&disk, task, "train.tsv");
        for part in parts {
            write(&disk, task, part);
        }
        let settings = settings(&disk, directory.clone());
        let summary = adapt(&settings, &mut |_| ()).unwrap();
        let names: Vec<&str> = summary.after.0.iter().map(|(name, _)| &name[..]).collect();
        assert_eq!(names, metrics, "{task:?}");
        assert_eq!(summary.examples, [8, 8 * parts.len()]);
        let requests = Requests {
            input: directory.join(parts[0]),
            ..disk.requests(&settings.out)
        };
        let mut lines = 0;
        let again = predict(&requests, |_| {
            lines += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(lines, 8);
        for ((name, expected), (metric, found)) in summary.after.0.iter().zip(&again.0) {
            assert!(name.starts_with(metric.as_str()));
            assert!(
                (found - expected).abs() < 1e-6,
                "{name}: {found}, {expected}"
            );
        }
    }
}

#[test]
fn what_is_no_task_or_lacks_a_file_is_said() {
    let disk = Disk::new("bert");
    let said = |settings: &Settings| {
        let error = adapt(settings, &mut |_| ()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(!settings.out.exists());
        error.to_string()
    };
    let cola = write(&disk, GlueTask::Cola, "train.tsv");
    let message = said(&settings(&disk, cola.clone()));
    assert!(message.contains("found no dev.tsv"), "{message}");
    write(&disk, GlueTask::Cola, "dev.tsv");
    let other = disk.folder.path().join("sentences");
    fs::rename(&cola, &other).unwrap();
    let message = said(&settings(&disk, other.clone()));
    assert!(message.contains("--glue"), "{message}");
    fs::create_dir(disk.folder.path().join("AX")).unwrap();
    let message = said(&settings(&disk, disk.folder.path().join("AX")));
    assert!(message.contains("train on MNLI"), "{message}");
    let named = Settings {
        glue: Some(GlueTask::Cola),
        ..settings(&disk, other)
    };
    adapt(&named, &mut |_| ()).unwrap();
}
