//! The value of `--device`.

use std::str::FromStr;

/// What the user asks for: `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// CUDA device 0 if it can be used, else the processor.
    Auto,
    Cpu,
    Cuda(u32),
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refusal = "it is none of auto, cpu, cuda, cuda:N";
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let ordinal = text.strip_prefix("cuda:").ok_or(refusal)?;
                ordinal.parse().map(Self::Cuda).map_err(|_| refusal)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_others_refused() {
        let read = |text: &str| text.parse::<Place>();
        let places = ["auto", "cpu", "cuda", "cuda:3"].map(read);
        assert_eq!(places, [Ok(Place::Auto), Ok(Place::Cpu), Ok(Place::Cuda(0)), Ok(Place::Cuda(3))]);
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CUDA"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
