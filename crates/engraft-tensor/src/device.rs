//! A device from its name.

use burn::tensor::Device;
use thiserror::Error;

use crate::nearest::suggestion;

/// Backends a name can ask for, whether built in or not.
const KNOWN: [&str; 4] = ["flex", "ndarray", "wgpu", "cuda"];

/// Backends this build can run on.
pub const BUILT_BACKENDS: &[&str] = &[
    #[cfg(feature = "flex")]
    "flex",
    #[cfg(feature = "ndarray")]
    "ndarray",
    #[cfg(feature = "wgpu")]
    "wgpu",
    #[cfg(feature = "cuda")]
    "cuda",
];

/// Why a device name could not be honoured.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeviceError {
    /// The name is none that Engraft knows.
    #[error("unknown device `{found}`: expected flex, ndarray, wgpu, cuda or cuda:N{suggestion}")]
    Unknown {
        /// The name that was asked for.
        found: String,
        /// `; nearest: ...`, or empty.
        suggestion: String,
    },
    /// The backend exists but was not compiled in.
    #[error(
        "device `{found}` needs the {found} backend, which this build lacks (it has: {built}); build with `--features {found}`"
    )]
    NotBuilt {
        /// The backend that was asked for.
        found: String,
        /// The backends that were built in.
        built: String,
    },
    /// The index after the colon is not a number, or the backend takes none.
    #[error("device `{found}`: expected a number after the colon, as in cuda:0")]
    BadIndex {
        /// The whole name that was asked for.
        found: String,
    },
}

/// The device called `name`, without autodiff.
///
/// # Errors
/// An unknown name, a backend that was not built in, or a malformed index.
pub fn device(name: &str) -> Result<Device, DeviceError> {
    let (backend, index) = match name.split_once(':') {
        None => (name, None),
        Some((backend, index)) => match index.parse::<usize>() {
            Ok(index) if backend == "cuda" || backend == "wgpu" => (backend, Some(index)),
            _ => return Err(DeviceError::BadIndex { found: name.into() }),
        },
    };
    if !KNOWN.contains(&backend) {
        return Err(DeviceError::Unknown {
            found: name.into(),
            suggestion: suggestion(backend, KNOWN),
        });
    }
    built(backend, index).ok_or_else(|| DeviceError::NotBuilt {
        found: backend.into(),
        built: BUILT_BACKENDS.join(", "),
    })
}

#[cfg_attr(
    not(any(feature = "cuda", feature = "wgpu")),
    expect(unused_variables, reason = "only GPU backends take an index")
)]
fn built(backend: &str, index: Option<usize>) -> Option<Device> {
    match backend {
        #[cfg(feature = "flex")]
        "flex" => Some(Device::flex()),
        #[cfg(feature = "ndarray")]
        #[expect(
            deprecated,
            reason = "deprecated upstream, kept as a second CPU opinion"
        )]
        "ndarray" => Some(Device::ndarray()),
        #[cfg(feature = "wgpu")]
        "wgpu" => Some(Device::wgpu(index.map_or(
            burn::tensor::DeviceKind::DefaultDevice,
            burn::tensor::DeviceKind::DiscreteGpu,
        ))),
        #[cfg(feature = "cuda")]
        "cuda" => Some(Device::cuda(index.unwrap_or(0))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_device_names_the_nearest() {
        let message = device("fleks").unwrap_err().to_string();
        assert!(
            message.contains("`fleks`") && message.contains("nearest: flex"),
            "{message}"
        );
    }

    #[test]
    fn an_index_must_be_a_number_and_belong_to_a_gpu() {
        assert!(matches!(
            device("cuda:x"),
            Err(DeviceError::BadIndex { .. })
        ));
        assert!(matches!(
            device("flex:1"),
            Err(DeviceError::BadIndex { .. })
        ));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_backend_left_out_says_how_to_build_it() {
        assert!(
            device("cuda")
                .unwrap_err()
                .to_string()
                .contains("--features cuda")
        );
    }
}
