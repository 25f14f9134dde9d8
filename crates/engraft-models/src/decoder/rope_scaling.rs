//! Frequencies of rotary position embeddings, and how configurations stretch them.

use engraft_core::Result;
use serde::Deserialize;
use serde_json::Value;

use crate::shapes::bad;

/// What a configuration says about rotary position embeddings, in either spelling: `rope_parameters`
/// with everything in it, or `rope_theta` beside `rope_scaling`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    theta: f32,
    width: usize,
    /// Longest sequence of the model as it is now.
    longest: usize,
    scaling: Scaling,
}

/// How frequencies differ from theta^(-2 j / width).
#[derive(Debug, Clone, PartialEq)]
enum Scaling {
    Default,
    /// Chen et al., arXiv 2306.15595: all frequencies divided.
    Linear {
        factor: f32,
    },
    /// A larger theta for sequences longer than the longest that was trained (NTK-aware).
    Dynamic {
        factor: f32,
    },
    /// Llama 3.1: long waves divided, short ones kept, a ramp between.
    Llama3 {
        factor: f32,
        low: f32,
        high: f32,
        original: f32,
    },
    /// Peng et al., arXiv 2309.00071: a ramp over dimensions, and scores scaled.
    Yarn {
        factor: f64,
        attention: f64,
        fast: f64,
        slow: f64,
        original: f64,
        truncate: bool,
    },
    /// Ding et al., arXiv 2402.13753: a factor for each frequency, other ones for long sequences.
    LongRope {
        short: Vec<f32>,
        long: Vec<f32>,
        original: usize,
        attention: f64,
    },
}

/// The keys of `rope_parameters` or `rope_scaling`.
#[derive(Debug, Clone, Default, Deserialize)]
struct Keys {
    rope_type: Option<String>,
    #[serde(rename = "type")]
    old_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    attention_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    truncate: Option<bool>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
    short_factor: Option<Vec<f32>>,
    long_factor: Option<Vec<f32>>,
}

impl Rope {
    /// The rotary embeddings of heads of `width` numbers that a config.json describes.
    ///
    /// # Errors
    /// An unknown type, a type whose keys are missing, an odd width.
    pub(crate) fn new(config: &Value, width: usize, longest: usize) -> Result<Self> {
        if width == 0 || width % 2 == 1 {
            return Err(bad(format!(
                "heads of {width} numbers: rotary positions turn pairs, so it must be even"
            )));
        }
        let given = ["rope_scaling", "rope_parameters"]
            .iter()
            .filter_map(|key| config.get(key))
            .find(|value| value.as_object().is_some_and(|keys| !keys.is_empty()));
        let keys = match given {
            Some(value) => Keys::deserialize(value)
                .map_err(|error| bad(format!("rotary positions: {error}")))?,
            None => Keys::default(),
        };
        let number = |key| config.get(key).and_then(Value::as_f64);
        let theta = keys.rope_theta.or(number("rope_theta")).unwrap_or(10_000.0);
        let original = config
            .get("original_max_position_embeddings")
            .and_then(Value::as_u64)
            .map(|original| original as usize)
            .or(keys.original_max_position_embeddings)
            .unwrap_or(longest);
        Ok(Self {
            theta: theta as f32,
            width,
            longest,
            scaling: keys.scaling(width, longest, original)?,
        })
    }

    /// Frequencies `[width / 2]` for a pass whose last position is `longest - 1`, in single precision
    /// whatever the model's, as the models were trained.
    pub(crate) fn frequencies(&self, longest: usize) -> Vec<f32> {
        let plain = |theta: f32| self.powers(theta).map(|power| 1.0 / power).collect();
        match &self.scaling {
            Scaling::Default => plain(self.theta),
            Scaling::Linear { factor } => self
                .powers(self.theta)
                .map(|power| 1.0 / power / factor)
                .collect(),
            Scaling::Dynamic { factor } => {
                let length = longest.max(self.longest) as f32;
                let stretch = factor * length / self.longest as f32 - (factor - 1.0);
                let width = self.width as f32;
                plain(self.theta * stretch.powf(width / (width - 2.0)))
            }
            Scaling::Llama3 { .. } => self.llama3(),
            Scaling::Yarn { .. } => self.yarn(),
            Scaling::LongRope {
                short,
                long,
                original,
                ..
            } => {
                let factors = if longest > *original { long } else { short };
                let powers = self.powers(self.theta).zip(factors);
                powers
                    .map(|(power, factor)| 1.0 / (factor * power))
                    .collect()
            }
        }
    }

    /// What cosines and sines are multiplied with.
    pub(crate) fn attention_factor(&self) -> f64 {
        match self.scaling {
            Scaling::Yarn { attention, .. } | Scaling::LongRope { attention, .. } => attention,
            _ => 1.0,
        }
    }

    /// theta^(2 j / width) for each pair j.
    fn powers(&self, theta: f32) -> impl Iterator<Item = f32> {
        let width = self.width;
        (0..width / 2).map(move |j| theta.powf((2 * j) as f32 / width as f32))
    }

    fn llama3(&self) -> Vec<f32> {
        let Scaling::Llama3 {
            factor,
            low,
            high,
            original,
        } = self.scaling
        else {
            unreachable!("called for this scaling")
        };
        let scaled = |power: f32| {
            let frequency = 1.0 / power;
            let wave = 2.0 * std::f32::consts::PI / frequency;
            if wave > original / low {
                frequency / factor
            } else if wave < original / high {
                frequency
            } else {
                let smooth = (original / wave - low) / (high - low);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        };
        self.powers(self.theta).map(scaled).collect()
    }

    fn yarn(&self) -> Vec<f32> {
        let Scaling::Yarn {
            factor,
            fast,
            slow,
            original,
            truncate,
            ..
        } = self.scaling
        else {
            unreachable!("called for this scaling")
        };
        let width = self.width as f64;
        // The dimension that turns so many times within the trained length.
        let dimension = |turns: f64| {
            let ratio = original / (turns * 2.0 * std::f64::consts::PI);
            width * ratio.ln() / (2.0 * f64::from(self.theta).ln())
        };
        let (mut from, mut to) = (dimension(fast), dimension(slow));
        if truncate {
            (from, to) = (from.floor(), to.ceil());
        }
        let (from, mut to) = (from.max(0.0), to.min(width - 1.0));
        if from == to {
            to += 0.001;
        }
        let blend = |(j, power): (usize, f32)| {
            let interpolated = ((j as f32 - from as f32) / (to - from) as f32).clamp(0.0, 1.0);
            let kept = 1.0 - interpolated;
            1.0 / (factor as f32 * power) * (1.0 - kept) + 1.0 / power * kept
        };
        self.powers(self.theta).enumerate().map(blend).collect()
    }
}

impl Keys {
    fn scaling(self, width: usize, longest: usize, original: usize) -> Result<Scaling> {
        let kind = self.rope_type.or(self.old_type);
        let kind = kind.as_deref().unwrap_or("default");
        let needed = |value: Option<f64>, key: &str| {
            value.ok_or_else(|| bad(format!("rotary positions of type `{kind}` need `{key}`")))
        };
        let ratio = longest as f64 / original as f64;
        Ok(match kind {
            "default" => Scaling::Default,
            "linear" => Scaling::Linear {
                factor: needed(self.factor, "factor")? as f32,
            },
            "dynamic" => Scaling::Dynamic {
                factor: needed(self.factor, "factor")? as f32,
            },
            "llama3" => Scaling::Llama3 {
                factor: needed(self.factor, "factor")? as f32,
                low: needed(self.low_freq_factor, "low_freq_factor")? as f32,
                high: needed(self.high_freq_factor, "high_freq_factor")? as f32,
                original: original as f32,
            },
            "yarn" => {
                let factor = self.factor.unwrap_or(ratio);
                let scale = |by: f64| match factor > 1.0 {
                    true => 0.1 * by * factor.ln() + 1.0,
                    false => 1.0,
                };
                let nonzero = |value: Option<f64>| value.filter(|value| *value != 0.0);
                let scales = nonzero(self.mscale).zip(nonzero(self.mscale_all_dim));
                let suggested = scales.map_or(scale(1.0), |(one, all)| scale(one) / scale(all));
                Scaling::Yarn {
                    factor,
                    attention: self.attention_factor.unwrap_or(suggested),
                    fast: nonzero(self.beta_fast).unwrap_or(32.0),
                    slow: nonzero(self.beta_slow).unwrap_or(1.0),
                    original: original as f64,
                    truncate: self.truncate.unwrap_or(true),
                }
            }
            "longrope" => {
                let factors = |values: Option<Vec<f32>>, key: &str| match values {
                    Some(values) if values.len() == width / 2 => Ok(values),
                    found => Err(bad(format!(
                        "rotary positions of type `longrope` need `{key}`: found {}, expected {} numbers",
                        found.map_or("none".to_owned(), |values| values.len().to_string()),
                        width / 2
                    ))),
                };
                let factor = self.factor.unwrap_or(ratio);
                let suggested = match factor > 1.0 {
                    true => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
                    false => 1.0,
                };
                Scaling::LongRope {
                    short: factors(self.short_factor, "short_factor")?,
                    long: factors(self.long_factor, "long_factor")?,
                    original,
                    attention: self.attention_factor.unwrap_or(suggested),
                }
            }
            other => {
                let known = ["default", "linear", "dynamic", "llama3", "yarn", "longrope"];
                return Err(bad(format!(
                    "found rotary positions of type `{other}`, expected one of {}{}",
                    known.join(", "),
                    engraft_tensor::suggestion(other, known)
                )));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn frequencies(config: Value, longest: usize) -> Vec<f32> {
        Rope::new(&config, 8, 64).unwrap().frequencies(longest)
    }

    #[test]
    fn old_and_new_spellings_are_one() {
        let new =
            json!({"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}});
        let old = json!({"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 4.0}});
        let plain = json!({"rope_theta": 500.0, "rope_scaling": null});
        assert_eq!(frequencies(new.clone(), 8), frequencies(old, 8));
        for (scaled, plain) in frequencies(new, 8).iter().zip(frequencies(plain, 8)) {
            assert_eq!(scaled * 4.0, plain);
        }
    }

    #[test]
    fn dynamic_scaling_begins_beyond_the_longest_sequence() {
        let dynamic = json!({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}});
        let plain = frequencies(json!({}), 8);
        assert_eq!(frequencies(dynamic.clone(), 64), plain);
        assert!(frequencies(dynamic, 128)[1] < plain[1]);
    }

    #[test]
    fn a_bad_type_and_missing_keys_are_named() {
        let message = |config: Value| Rope::new(&config, 8, 64).unwrap_err().to_string();
        assert!(message(json!({"rope_scaling": {"type": "lineal"}})).contains("nearest: linear"));
        assert!(message(json!({"rope_scaling": {"type": "linear"}})).contains("`factor`"));
        assert!(message(json!({"rope_scaling": {"type": "longrope"}})).contains("short_factor"));
        assert!(Rope::new(&json!({}), 7, 64).is_err());
    }
}
