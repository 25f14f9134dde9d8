//! Models by their id on the Hugging Face hub, from its cache, without a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::adapt::Disk;

/// Runs the binary with a cache of its own.
fn run(home: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_engraft-experiment"))
        .args(words)
        .env("HF_HOME", home)
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap()
}

/// A model as the hub's cache has it, known as `main` and by its commit.
fn cache(disk: &Disk) -> PathBuf {
    let home = disk.folder.path().join("home");
    let root = home.join("hub/models--tiny--bert");
    let snapshot = root.join("snapshots/0123abc");
    fs::create_dir_all(snapshot.parent().unwrap()).unwrap();
    fs::create_dir_all(root.join("refs")).unwrap();
    fs::write(root.join("refs/main"), "0123abc").unwrap();
    fs::rename(disk.model(), snapshot).unwrap();
    home
}

#[test]
fn a_model_in_the_cache_is_used_by_its_name() {
    let disk = Disk::new("bert");
    let home = cache(&disk);
    let at = |name: &str| disk.folder.path().join(name).display().to_string();
    let (data, adapter, merged) = (at("rows.csv"), at("adapter"), at("merged"));
    let adapt = |model: &str, out: &str| {
        let method = "id = \"lora\", rank = 2";
        let words = [
            "adapt", "--model", model, "--data", &data, "--method", method,
        ];
        run(
            &home,
            &[&words[..], &["--out", out, "--steps", "2"]].concat(),
        )
    };
    let done = adapt("tiny/bert@0123abc", &adapter);
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    assert!(
        text.contains("from_pretrained(\"tiny/bert\", revision=\"0123abc\""),
        "{text}"
    );
    let config = fs::read_to_string(Path::new(&adapter).join("adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["base_model_name_or_path"], "tiny/bert");
    assert_eq!(config["revision"], "0123abc");

    let model = ["--model", "tiny/bert", "--adapter", &adapter];
    let predicted = run(
        &home,
        &[&["predict"], &model[..], &["--input", &data]].concat(),
    );
    let lines = String::from_utf8(predicted.stdout).unwrap();
    assert_eq!(lines.lines().count(), 8);
    let measured = String::from_utf8(predicted.stderr).unwrap();
    assert!(measured.contains("accuracy"), "{measured}");
    let merge = run(
        &home,
        &[&["merge-into"], &model[..], &["--out", &merged]].concat(),
    );
    assert!(merge.status.success());
    assert!(Path::new(&merged).join("tokenizer.json").exists());

    for (name, expected) in [
        ("tiny/other", "not in the cache"),
        ("tiny/bert@v2", "revision v2"),
        ("tiny bert", "owner/name"),
        ("/no/such/directory", "owner/name"),
    ] {
        let out = at("nothing");
        let failed = adapt(name, &out);
        let message = String::from_utf8(failed.stderr).unwrap();
        assert_eq!(failed.status.code(), Some(2), "{message}");
        assert!(message.contains(expected), "{message}");
        assert!(!Path::new(&out).exists());
    }
}
