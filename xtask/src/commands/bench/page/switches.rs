//! Loading a sparse adapter beside fusing a low-rank one.

use super::super::records::Pair;
use super::cells::{head, line, ms, time};

/// Sparse adapters beside low-rank ones of as many numbers, or of the papers' sizes: SHiRA (arXiv
/// 2406.13175) reports 5 to 16 times.
pub fn table(page: &mut String, pairs: &[&Pair]) {
    let find = |what: &str| {
        let name = format!("switch 4096 {what}");
        let pair = pairs.iter().find(|pair| pair.name == name);
        pair.map(|pair| ms(&pair.ours))
    };
    let compared = ["shira_r8", "shira_r32", "shira_1", "shira_2"].map(|sparse| {
        let fused = match sparse {
            "shira_r8" => "lora_r8",
            _ => "lora_r32",
        };
        Some((sparse, find(sparse)?, fused, find(fused)?))
    });
    if compared.iter().all(Option::is_none) {
        return;
    }
    let columns = ["loaded", "ms", "fused", "ms", "ratio", "paper"];
    head(
        page,
        "Loading SHiRA beside fusing LoRA, 4096 x 4096 on the host",
        &columns,
    );
    for (sparse, loaded, low_rank, fused) in compared.into_iter().flatten() {
        let ratio = format!("{:.1}", fused / loaded);
        let names = [sparse, low_rank].map(str::to_owned);
        let [sparse, low_rank] = names;
        line(
            page,
            &[
                sparse,
                time(loaded),
                low_rank,
                time(fused),
                ratio,
                "5 to 16".to_owned(),
            ],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::sides::Measured;
    use super::*;

    #[test]
    fn sparse_loading_is_set_beside_fusing() {
        let pair = |name: &str, ms: f64| Pair {
            name: name.to_owned(),
            threads: 2,
            ours: vec![Measured {
                ms,
                ms_min: ms,
                rss_delta_mb: None,
                trainable: None,
            }],
            peft: Vec::new(),
            versions: serde_json::json!({}),
            day: 20_779,
            other: None,
        };
        let pairs = [
            pair("switch 4096 lora_r32", 20.0),
            pair("switch 4096 shira_1", 2.0),
        ];
        let mut page = String::new();
        table(&mut page, &pairs.iter().collect::<Vec<_>>());
        assert!(
            page.contains("| shira_1 | 2.00 | lora_r32 | 20.0 | 10.0 | 5 to 16 |"),
            "{page}"
        );
    }
}
