//! The layout of the GLUE benchmark (Wang et al. 2019): a directory for each task with `.tsv` files.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::metric::Metric;
use crate::names::{listed, nearest_is};
use crate::read::Delimited;
use crate::task::{Regression, SentencePair, SingleSentence, Task};

/// A task of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GlueTask {
    /// Linguistic acceptability.
    Cola,
    /// Sentiment.
    Sst2,
    /// Paraphrases in news.
    Mrpc,
    /// Paraphrases among questions.
    Qqp,
    /// Semantic similarity, 0 to 5.
    Stsb,
    /// Inference, many genres.
    Mnli,
    /// Inference, from question answering.
    Qnli,
    /// Inference, from news.
    Rte,
    /// Inference, from pronouns.
    Wnli,
    /// The diagnostic set for MNLI.
    Ax,
}

/// A file of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// With labels, to train on.
    Train,
    /// With labels; of MNLI, from the genres of training.
    Dev,
    /// With labels; of MNLI, from other genres.
    DevMismatched,
    /// Without labels; of MNLI, from the genres of training.
    Test,
    /// Without labels; of MNLI, from other genres.
    TestMismatched,
}

use GlueTask::{Ax, Cola, Mnli, Mrpc, Qnli, Qqp, Rte, Sst2, Stsb, Wnli};

const ENTAILMENT: &[&str] = &["entailment", "not_entailment"];
const INFERENCE: &[&str] = &["entailment", "neutral", "contradiction"];
const BINARY: &[&str] = &["0", "1"];

impl GlueTask {
    /// All tasks.
    pub const ALL: [Self; 10] = [Cola, Sst2, Mrpc, Qqp, Stsb, Mnli, Qnli, Rte, Wnli, Ax];

    /// The name of its directory.
    pub fn directory(self) -> &'static str {
        match self {
            Cola => "CoLA",
            Sst2 => "SST-2",
            Mrpc => "MRPC",
            Qqp => "QQP",
            Stsb => "STS-B",
            Mnli => "MNLI",
            Qnli => "QNLI",
            Rte => "RTE",
            Wnli => "WNLI",
            Ax => "AX",
        }
    }

    /// The task with this name, whatever its case and hyphens.
    ///
    /// # Errors
    /// [`DataError::File`] with all names and the nearest one.
    pub fn named(name: &str) -> Result<Self> {
        let plain = |name: &str| name.replace(['-', '_'], "").to_lowercase();
        let known = Self::ALL.map(Self::directory);
        Self::ALL
            .into_iter()
            .find(|task| plain(task.directory()) == plain(name))
            .ok_or_else(|| DataError::File {
                path: name.into(),
                reason: format!(
                    "expected the name of a GLUE task, one of {}{}",
                    listed(known),
                    nearest_is(name, known)
                ),
            })
    }

    /// What the benchmark reports.
    pub fn metrics(self) -> &'static [Metric] {
        match self {
            Cola | Ax => &[Metric::Matthews],
            Mrpc | Qqp => &[Metric::Accuracy, Metric::F1],
            Stsb => &[Metric::Pearson, Metric::Spearman],
            Sst2 | Mnli | Qnli | Rte | Wnli => &[Metric::Accuracy],
        }
    }

    /// The texts' columns, the label's column, and the labels in the order of the classes.
    fn columns(
        self,
    ) -> (
        &'static [&'static str],
        &'static str,
        &'static [&'static str],
    ) {
        match self {
            Cola => (&["sentence"], "label", BINARY),
            Sst2 => (&["sentence"], "label", BINARY),
            Mrpc => (&["#1 String", "#2 String"], "Quality", BINARY),
            Qqp => (&["question1", "question2"], "is_duplicate", BINARY),
            Stsb => (&["sentence1", "sentence2"], "score", &[]),
            Mnli => (&["sentence1", "sentence2"], "gold_label", INFERENCE),
            Qnli => (&["question", "sentence"], "label", ENTAILMENT),
            Rte => (&["sentence1", "sentence2"], "label", ENTAILMENT),
            Wnli => (&["sentence1", "sentence2"], "label", BINARY),
            Ax => (&["sentence1", "sentence2"], "label", INFERENCE),
        }
    }

    /// The task as a setting.
    pub fn task(self) -> Task {
        let (texts, label, labels) = self.columns();
        let text = |place: usize| texts.get(place).map(|text| (*text).to_owned());
        let label = Some(label.to_owned());
        let labels = Some(labels.iter().map(|name| (*name).to_owned()).collect());
        match (self, texts.len()) {
            (Stsb, _) => Task::Regression(Regression {
                text: text(0),
                second: text(1),
                label,
            }),
            (_, 1) => Task::SingleSentence(SingleSentence {
                text: text(0),
                label,
                labels,
            }),
            _ => Task::SentencePair(SentencePair {
                first: text(0),
                second: text(1),
                label,
                labels,
            }),
        }
    }

    fn file(self, part: Part) -> Option<&'static str> {
        match (self, part) {
            (Ax, Part::Test) => Some("AX.tsv"),
            (Ax, _) => None,
            (_, Part::Train) => Some("train.tsv"),
            (Mnli, Part::Dev) => Some("dev_matched.tsv"),
            (Mnli, Part::DevMismatched) => Some("dev_mismatched.tsv"),
            (Mnli, Part::Test) => Some("test_matched.tsv"),
            (Mnli, Part::TestMismatched) => Some("test_mismatched.tsv"),
            (_, Part::Dev) => Some("dev.tsv"),
            (_, Part::Test) => Some("test.tsv"),
            (_, Part::DevMismatched | Part::TestMismatched) => None,
        }
    }
}

/// A task's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glue {
    /// Which task.
    pub task: GlueTask,
    /// Where its files are.
    pub directory: PathBuf,
}

impl Glue {
    /// The task of a directory that has its name; or `task`, in the benchmark's directory or in a
    /// directory of another name.
    ///
    /// # Errors
    /// A name that is not a task's, or no such directory.
    pub fn open(directory: &Path, task: Option<GlueTask>) -> Result<Self> {
        let name = directory
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let (task, directory) = match task {
            None => (GlueTask::named(name)?, directory.to_owned()),
            Some(task) if GlueTask::named(name).is_ok_and(|named| named == task) => {
                (task, directory.to_owned())
            }
            Some(task) => {
                let inside = directory.join(task.directory());
                let is_inside = inside.is_dir();
                (
                    task,
                    if is_inside {
                        inside
                    } else {
                        directory.to_owned()
                    },
                )
            }
        };
        match std::fs::metadata(&directory) {
            Ok(_) => Ok(Self { task, directory }),
            Err(source) => Err(DataError::Io {
                path: directory,
                source,
            }),
        }
    }

    /// The task and the part that a file is by its name and that of its directory.
    pub fn file(path: &Path) -> Option<(Self, Part)> {
        use Part::{Dev, DevMismatched, Test, TestMismatched, Train};
        let directory = path.parent()?;
        let task = GlueTask::named(directory.file_name()?.to_str()?).ok()?;
        let part = [Train, Dev, DevMismatched, Test, TestMismatched]
            .into_iter()
            .find(|part| task.file(*part).is_some_and(|name| path.ends_with(name)))?;
        let directory = directory.to_owned();
        Some((Self { task, directory }, part))
    }

    /// The parts to evaluate on, with their names where there are several: MNLI's.
    pub fn evaluation(&self) -> &'static [(Option<&'static str>, Part)] {
        match self.task {
            Mnli => &[
                (Some("matched"), Part::Dev),
                (Some("mismatched"), Part::DevMismatched),
            ],
            _ => &[(None, Part::Dev)],
        }
    }

    /// A file of the task: tab-separated, not quoted, with a header except CoLA's labelled files.
    ///
    /// # Errors
    /// A part that the task does not have, or a file that is not there.
    pub fn part(&self, part: Part) -> Result<Delimited> {
        let name = self.task.directory();
        let Some(file) = self.task.file(part) else {
            let reason = format!("{name} has no part {part:?}");
            return Err(DataError::File {
                path: self.directory.clone(),
                reason,
            });
        };
        let path = self.directory.join(file);
        if !path.is_file() {
            return Err(DataError::File {
                path: self.directory.clone(),
                reason: format!("found no {file} in it, expected GLUE's layout of {name}"),
            });
        }
        let source = Delimited::tsv(path);
        Ok(match (self.task, part) {
            (Cola, Part::Train | Part::Dev) => {
                source.with_columns(["source", "label", "star", "sentence"])
            }
            _ => source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::BadRows;
    use crate::text::{TextOptions, TextSet};
    use crate::tokens::{Splitting, Tokens, Wrapping, tiny_tokenizer};

    /// A header and two labelled rows for each task, with the columns of the benchmark.
    fn rows(task: GlueTask) -> [&'static str; 3] {
        match task {
            Cola => ["", "gj04\t1\t\tOur \"friends.", "gj04\t0\t*\tOne more"],
            Sst2 => ["sentence\tlabel", "so good \t1", "so bad \t0"],
            Mrpc => [
                "\u{feff}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
                "1\t7\t8\tHe said \"a\tHe said b",
                "0\t7\t8\tc\td",
            ],
            Qqp => [
                "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
                "1\t2\t3\ta?\tb?\t0",
                "1\t2\t3\tc\td\t1",
            ],
            Stsb => [
                "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
                "0\tm\tf\t2012\t1\tn\tn\ta\tb\t5.000",
                "1\tm\tf\t2012\t1\tn\tn\tc\td\t3.8",
            ],
            Mnli => [
                "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label",
                "0\t3\t3n\tg\t(\t(\t(\t(\ta\tb\tneutral\tneutral",
                "1\t3\t3c\tg\t(\t(\t(\t(\tc\td\tcontradiction\tcontradiction",
            ],
            Qnli => [
                "index\tquestion\tsentence\tlabel",
                "0\ta\tb\tentailment",
                "1\tc\td\tnot_entailment",
            ],
            Rte => [
                "index\tsentence1\tsentence2\tlabel",
                "0\ta\tb\tnot_entailment",
                "1\tc\td\tentailment",
            ],
            Wnli => [
                "index\tsentence1\tsentence2\tlabel",
                "0\ta\tb\t1",
                "1\tc\td\t0",
            ],
            Ax => ["index\tsentence1\tsentence2", "0\ta\tb", "1\tc\td"],
        }
    }

    #[test]
    fn every_task_is_read_from_its_layout() {
        let root = tempfile::tempdir().unwrap();
        let json = tiny_tokenizer(Splitting::Characters, Wrapping::Encoder, ["abcd"]);
        let tokens = Tokens::from_json("tiny", json.as_bytes()).unwrap();
        for task in GlueTask::ALL {
            let directory = root.path().join(task.directory());
            std::fs::create_dir(&directory).unwrap();
            let part = if task == Ax { Part::Test } else { Part::Train };
            let text = rows(task).join("\n");
            let file = directory.join(task.file(part).unwrap());
            std::fs::write(&file, text.trim_start_matches('\n')).unwrap();
            let glue = Glue::open(&directory, None).unwrap();
            assert_eq!(glue, Glue::open(root.path(), Some(task)).unwrap());
            assert_eq!(Glue::file(&file), Some((glue.clone(), part)));
            let source = glue.part(part).unwrap();
            if task == Ax {
                continue;
            }
            let prepared = task.task().prepare(&source, &tokens).unwrap();
            let set = TextSet::new(&source, &prepared, &tokens, &TextOptions::default()).unwrap();
            assert_eq!(set.len(), 2, "{task:?}");
            assert_eq!(
                prepared.outputs(),
                match task {
                    Stsb => 1,
                    Mnli => 3,
                    _ => 2,
                }
            );
            assert!(!task.metrics().is_empty());
        }
    }

    #[test]
    fn a_short_row_has_its_line_and_wrong_names_are_errors() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("qqp");
        std::fs::create_dir(&directory).unwrap();
        let text = [rows(Qqp)[0], "133273\t213221\t213222\tHow is", rows(Qqp)[2]].join("\n");
        std::fs::write(directory.join("train.tsv"), text).unwrap();
        let glue = Glue::open(&directory, None).unwrap();
        let source = glue.part(Part::Train).unwrap();
        let json = tiny_tokenizer(Splitting::Characters, Wrapping::Encoder, ["abcd"]);
        let tokens = Tokens::from_json("tiny", json.as_bytes()).unwrap();
        let task = Qqp.task().prepare(&source, &tokens).unwrap();
        let read = |limit| {
            let options = TextOptions {
                bad_rows: BadRows(limit),
                ..TextOptions::default()
            };
            TextSet::new(&source, &task, &tokens, &options)
        };
        let message = read(0).unwrap_err().to_string();
        assert!(
            message.contains("train.tsv:2: found 4 fields, expected 6"),
            "{message}"
        );
        let set = read(1).unwrap();
        assert_eq!((set.len(), set.rows, set.problems[0].line), (1, 2, 2));
        assert!(glue.part(Part::DevMismatched).is_err());
        let message = glue.part(Part::Dev).unwrap_err().to_string();
        assert!(message.contains("found no dev.tsv"), "{message}");
        let other = root.path().join("pairs");
        std::fs::rename(&directory, &other).unwrap();
        assert!(Glue::open(&other, None).is_err());
        let glue = Glue::open(&other, Some(Qqp)).unwrap();
        assert!(glue.part(Part::Train).is_ok());
        assert_eq!(Glue::file(&other.join("train.tsv")), None);
        let message = GlueTask::named("SST2x").unwrap_err().to_string();
        assert!(message.contains("the nearest is \"SST-2\""), "{message}");
    }
}
