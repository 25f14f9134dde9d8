//! The registry: every method, one line each, in alphabetical order of its path.

use engraft_core::{AnyMethod, MethodEntry, Result, unknown_method};
use serde_json::Value;

/// Every registered method.
pub static METHODS: &[MethodEntry] = &[
    // registry: begin
    MethodEntry::of::<engraft_bottleneck::AdapterDropConfig>(),
    MethodEntry::of::<engraft_bottleneck::AdapterPlusConfig>(),
    MethodEntry::of::<engraft_bottleneck::BiAdaptFormerConfig>(),
    MethodEntry::of::<engraft_bottleneck::BottleneckParallelConfig>(),
    MethodEntry::of::<engraft_bottleneck::BottleneckSeriesConfig>(),
    MethodEntry::of::<engraft_bottleneck::ConvAdapterConfig>(),
    MethodEntry::of::<engraft_bottleneck::ConvpassConfig>(),
    MethodEntry::of::<engraft_bottleneck::DilatedAdapterConfig>(),
    MethodEntry::of::<engraft_bottleneck::InvertibleConfig>(),
    MethodEntry::of::<engraft_bottleneck::MosaConfig>(),
    MethodEntry::of::<engraft_bottleneck::SparseAdapterConfig>(),
    MethodEntry::of::<engraft_bottleneck::ZeroI2vConfig>(),
    MethodEntry::of::<engraft_butterfly::BoftConfig>(),
    MethodEntry::of::<engraft_butterfly::OftConfig>(),
    MethodEntry::of::<engraft_features::AdaLinkConfig>(),
    MethodEntry::of::<engraft_features::BitFitConfig>(),
    MethodEntry::of::<engraft_features::DireftConfig>(),
    MethodEntry::of::<engraft_features::FullConfig>(),
    MethodEntry::of::<engraft_features::Ia3Config>(),
    MethodEntry::of::<engraft_features::LinearProbeConfig>(),
    MethodEntry::of::<engraft_features::LnTuningConfig>(),
    MethodEntry::of::<engraft_features::LoreftConfig>(),
    MethodEntry::of::<engraft_features::NoreftConfig>(),
    MethodEntry::of::<engraft_features::SsfConfig>(),
    MethodEntry::of::<engraft_givens::EtherConfig>(),
    MethodEntry::of::<engraft_givens::EtherPlusConfig>(),
    MethodEntry::of::<engraft_givens::GoftConfig>(),
    MethodEntry::of::<engraft_givens::HraConfig>(),
    MethodEntry::of::<engraft_givens::QgoftConfig>(),
    MethodEntry::of::<engraft_givens::RoadConfig>(),
    MethodEntry::of::<engraft_kronecker::CompacterConfig>(),
    MethodEntry::of::<engraft_kronecker::KadaptationConfig>(),
    MethodEntry::of::<engraft_kronecker::LokrConfig>(),
    MethodEntry::of::<engraft_kronecker::MokaConfig>(),
    MethodEntry::of::<engraft_kronecker::PhmLinearConfig>(),
    MethodEntry::of::<engraft_kronecker::SokaConfig>(),
    MethodEntry::of::<engraft_lowrank::AdaloraConfig>(),
    MethodEntry::of::<engraft_lowrank::AdamssConfig>(),
    MethodEntry::of::<engraft_lowrank::AloraConfig>(),
    MethodEntry::of::<engraft_lowrank::AsLoraConfig>(),
    MethodEntry::of::<engraft_lowrank::BdLoraConfig>(),
    MethodEntry::of::<engraft_lowrank::BeftConfig>(),
    MethodEntry::of::<engraft_lowrank::CapaboostConfig>(),
    MethodEntry::of::<engraft_lowrank::DeftConfig>(),
    MethodEntry::of::<engraft_lowrank::DeloraConfig>(),
    MethodEntry::of::<engraft_lowrank::DoraConfig>(),
    MethodEntry::of::<engraft_lowrank::DyloraConfig>(),
    MethodEntry::of::<engraft_lowrank::FrodConfig>(),
    MethodEntry::of::<engraft_lowrank::GloraConfig>(),
    MethodEntry::of::<engraft_lowrank::GraloraConfig>(),
    MethodEntry::of::<engraft_lowrank::HiraConfig>(),
    MethodEntry::of::<engraft_lowrank::HydraConfig>(),
    MethodEntry::of::<engraft_lowrank::IncreloraConfig>(),
    MethodEntry::of::<engraft_lowrank::LilyConfig>(),
    MethodEntry::of::<engraft_lowrank::LohaConfig>(),
    MethodEntry::of::<engraft_lowrank::LoraConfig>(),
    MethodEntry::of::<engraft_lowrank::LoraFaConfig>(),
    MethodEntry::of::<engraft_lowrank::LoraPlusConfig>(),
    MethodEntry::of::<engraft_lowrank::MicaConfig>(),
    MethodEntry::of::<engraft_lowrank::MissConfig>(),
    MethodEntry::of::<engraft_lowrank::MontecloraConfig>(),
    MethodEntry::of::<engraft_lowrank::MosConfig>(),
    MethodEntry::of::<engraft_lowrank::MsploraConfig>(),
    MethodEntry::of::<engraft_lowrank::ParaConfig>(),
    MethodEntry::of::<engraft_lowrank::PeanutConfig>(),
    MethodEntry::of::<engraft_lowrank::PveraConfig>(),
    MethodEntry::of::<engraft_lowrank::RandLoraConfig>(),
    MethodEntry::of::<engraft_lowrank::SelectiveLoraConfig>(),
    MethodEntry::of::<engraft_lowrank::TinyLoraConfig>(),
    MethodEntry::of::<engraft_lowrank::TriadaptloraConfig>(),
    MethodEntry::of::<engraft_lowrank::UniLoraConfig>(),
    MethodEntry::of::<engraft_lowrank::VbLoraConfig>(),
    MethodEntry::of::<engraft_lowrank::VeloraConfig>(),
    MethodEntry::of::<engraft_lowrank::VeraConfig>(),
    MethodEntry::of::<engraft_prompt::AdaptionPromptConfig>(),
    MethodEntry::of::<engraft_prompt::CartridgeConfig>(),
    MethodEntry::of::<engraft_prompt::CptConfig>(),
    MethodEntry::of::<engraft_prompt::E2vptConfig>(),
    MethodEntry::of::<engraft_prompt::MultitaskPromptTuningConfig>(),
    MethodEntry::of::<engraft_prompt::PTuningConfig>(),
    MethodEntry::of::<engraft_prompt::PastaConfig>(),
    MethodEntry::of::<engraft_prompt::PrefixTuningConfig>(),
    MethodEntry::of::<engraft_prompt::PromptTuningConfig>(),
    MethodEntry::of::<engraft_prompt::ShadowConfig>(),
    MethodEntry::of::<engraft_prompt::TrainableTokensConfig>(),
    MethodEntry::of::<engraft_prompt::VptConfig>(),
    MethodEntry::of::<engraft_sparse::DseeConfig>(),
    MethodEntry::of::<engraft_sparse::Id3Config>(),
    MethodEntry::of::<engraft_sparse::LosiaConfig>(),
    MethodEntry::of::<engraft_sparse::LtSftConfig>(),
    MethodEntry::of::<engraft_sparse::MaskTuningConfig>(),
    MethodEntry::of::<engraft_sparse::NeuroAdaConfig>(),
    MethodEntry::of::<engraft_sparse::PacaConfig>(),
    MethodEntry::of::<engraft_sparse::RosaConfig>(),
    MethodEntry::of::<engraft_sparse::S2ftConfig>(),
    MethodEntry::of::<engraft_sparse::ShiraConfig>(),
    MethodEntry::of::<engraft_sparse::SpielConfig>(),
    MethodEntry::of::<engraft_sparse::SptConfig>(),
    MethodEntry::of::<engraft_sparse::SuperTuningConfig>(),
    MethodEntry::of::<engraft_sparse::TapsConfig>(),
    MethodEntry::of::<engraft_structured::C3aConfig>(),
    MethodEntry::of::<engraft_structured::FourierFtConfig>(),
    MethodEntry::of::<engraft_structured::SurmCirculantConfig>(),
    MethodEntry::of::<engraft_structured::SurmLdrConfig>(),
    MethodEntry::of::<engraft_structured::SurmToeplitzConfig>(),
    MethodEntry::of::<engraft_structured::WaveFtConfig>(),
    MethodEntry::of::<engraft_svd::CordaConfig>(),
    MethodEntry::of::<engraft_svd::EvaConfig>(),
    MethodEntry::of::<engraft_svd::KasaConfig>(),
    MethodEntry::of::<engraft_svd::LoftqConfig>(),
    MethodEntry::of::<engraft_svd::LokuConfig>(),
    MethodEntry::of::<engraft_svd::LoraGaConfig>(),
    MethodEntry::of::<engraft_svd::LoraSbConfig>(),
    MethodEntry::of::<engraft_svd::LoraXsConfig>(),
    MethodEntry::of::<engraft_svd::MiloraConfig>(),
    MethodEntry::of::<engraft_svd::OloraConfig>(),
    MethodEntry::of::<engraft_svd::OsfConfig>(),
    MethodEntry::of::<engraft_svd::PissaConfig>(),
    MethodEntry::of::<engraft_svd::PsoftConfig>(),
    MethodEntry::of::<engraft_svd::SodaConfig>(),
    MethodEntry::of::<engraft_svd::SvftConfig>(),
    MethodEntry::of::<engraft_tensor_train::LorettaAdpConfig>(),
    MethodEntry::of::<engraft_tensor_train::LorettaRepConfig>(),
    MethodEntry::of::<engraft_tensor_train::MpoConfig>(),
    MethodEntry::of::<engraft_tensor_train::TtLoraConfig>(),
    // registry: end
];

/// Methods that act only through the adapters of others, in a composition.
pub static FUSIONS: &[MethodEntry] =
    &[MethodEntry::of::<engraft_bottleneck::AdapterFusionConfig>()];

/// The method called `id` with this table of configuration keys; keys left out have the paper's
/// defaults.
///
/// # Errors
/// An unknown method or key (the message names the nearest), or senseless values.
pub fn method(id: &str, config: &Value) -> Result<AnyMethod> {
    entry(id)?.parse(config)
}

/// The registry's line for `id`.
///
/// # Errors
/// An unknown method; the message names the nearest.
pub fn entry(id: &str) -> Result<&'static MethodEntry> {
    let all = || METHODS.iter().chain(FUSIONS);
    all()
        .find(|entry| entry.meta.id == id)
        .ok_or_else(|| unknown_method(id, all().map(|entry| entry.meta.id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique() {
        let mut ids: Vec<&str> = METHODS.iter().map(|entry| entry.meta.id).collect();
        ids.sort_unstable();
        let all = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), all);
    }

    #[test]
    fn a_misspelt_method_or_key_names_the_nearest() {
        let message = method("lroa", &Value::Null).unwrap_err().to_string();
        assert!(
            message.contains("`lroa`") && message.contains("lora"),
            "{message}"
        );
        let message = method("lora", &serde_json::json!({"rnak": 4}))
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("`rnak`") && message.contains("nearest: rank"),
            "{message}"
        );
        assert!(method("lora", &serde_json::json!({"rank": "four"})).is_err());
        assert!(method("lora", &serde_json::json!({"rank": 0})).is_err());
    }
}
