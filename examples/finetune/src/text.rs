//! The text: reading it, splitting it in a training and a held-out part, drawing sequences from it.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use tokenizers::Tokenizer;

const DEFAULT: &str = include_str!("../data/devils-dictionary.txt");
const DEFAULT_NAME: &str = "The Devil's Dictionary, Ambrose Bierce, 1911";

/// A text and its name for the report.
pub fn load(path: Option<&Path>) -> Result<(String, String)> {
    let Some(path) = path else {
        return Ok((DEFAULT.to_owned(), DEFAULT_NAME.to_owned()));
    };
    let bytes = std::fs::read(path).with_context(|| format!("cannot read the text {}", path.display()))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok((text, path.display().to_string())),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            bail!("the text {} is not UTF-8 (byte {at})", path.display())
        }
    }
}

/// The first nine tenths are for training and the rest is held out; the cut is moved on to the next
/// blank line, if one is near, so that no paragraph lies in both.
pub fn split(text: &str) -> (&str, &str) {
    let mut cut = text.len() / 10 * 9;
    while !text.is_char_boundary(cut) {
        cut += 1;
    }
    if let Some(blank) = text[cut..].find("\n\n").filter(|&at| at < text.len() / 20) {
        cut += blank + 2;
    }
    text.split_at(cut)
}

/// Both parts as tokens, the held-out one cut to what is measured.
pub struct Corpus {
    pub train: Vec<u32>,
    pub held_out: Vec<u32>,
    seq: usize,
}

/// Sequences of equal length, one after the other, and for each of their tokens the one that follows.
pub struct Batch {
    pub inputs: Vec<u32>,
    pub targets: Vec<u32>,
    pub seq: usize,
}

impl Corpus {
    pub fn new(text: &str, tokenizer: &Tokenizer, seq: usize, eval_tokens: usize) -> Result<Self> {
        let encode = |part: &str| -> Result<Vec<u32>> {
            let encoding = tokenizer.encode_fast(part, false).map_err(anyhow::Error::msg)?;
            Ok(encoding.get_ids().to_vec())
        };
        let (train, held_out) = split(text);
        let (train, mut held_out) = (encode(train)?, encode(held_out)?);
        ensure!(
            held_out.len() > seq && train.len() > 2 * seq,
            "the text is too short for sequences of {seq} tokens: it has {} tokens for training and {} held out",
            train.len(),
            held_out.len()
        );
        // Whole sequences only, and one token more, which the last one is followed by.
        let whole = eval_tokens.min(held_out.len() - 1) / seq * seq;
        held_out.truncate(whole + 1);
        Ok(Self { train, held_out, seq })
    }

    /// The batches of a run: sequences from random places, the same for the same seed.
    pub fn batches(&self, batch: usize, seed: u64) -> impl Iterator<Item = Batch> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(1); // stream 0 is for the adapters
        let places = (self.train.len() - self.seq) as u64;
        std::iter::repeat_with(move || {
            let starts: Vec<usize> = (0..batch).map(|_| (rng.next_u64() % places) as usize).collect();
            self.gather(&self.train, &starts)
        })
    }

    /// The held-out part as consecutive sequences, one a batch.
    pub fn held_out_batches(&self) -> impl Iterator<Item = Batch> {
        let last = self.held_out.len() - 1;
        (0..last).step_by(self.seq).map(|start| self.gather(&self.held_out, &[start]))
    }

    fn gather(&self, tokens: &[u32], starts: &[usize]) -> Batch {
        let rows = |shift: usize| {
            starts.iter().flat_map(|at| &tokens[at + shift..at + shift + self.seq]).copied().collect()
        };
        Batch { inputs: rows(0), targets: rows(1), seq: self.seq }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::tests::letters;

    #[test]
    fn split_is_at_a_blank_line_and_loses_nothing() {
        let (train, held_out) = split(DEFAULT);
        assert_eq!(train.len() + held_out.len(), DEFAULT.len());
        assert!(train.ends_with("\n\n"));
        let share = held_out.len() as f64 / DEFAULT.len() as f64;
        assert!((0.09..=0.10).contains(&share), "{share}");
        assert!(DEFAULT.len() >= 200_000);
    }

    #[test]
    fn split_keeps_characters_whole() {
        let text = "ä".repeat(101);
        let (train, held_out) = split(&text);
        assert_eq!(train.len() % 2, 0);
        assert!(!held_out.is_empty());
    }

    #[test]
    fn targets_follow_their_inputs() {
        let corpus = Corpus::new(&"abcdefgh".repeat(40), &letters(), 8, 1000).unwrap();
        for batch in corpus.batches(3, 7).take(4).chain(corpus.held_out_batches()) {
            assert_eq!(batch.inputs.len() % 8, 0);
            for (input, target) in batch.inputs.iter().zip(&batch.targets) {
                assert_eq!(*target, (input + 1) % 8);
            }
        }
        let first = |seed| corpus.batches(2, seed).next().unwrap().inputs;
        assert_eq!(first(1), first(1));
    }

    #[test]
    fn errors_name_the_cause() {
        let short = Corpus::new("abc", &letters(), 8, 100).err().unwrap().to_string();
        assert!(short.starts_with("the text is too short for sequences of 8 tokens"), "{short}");
        let missing = load(Some(Path::new("no/such/file"))).unwrap_err();
        assert_eq!(missing.to_string(), "cannot read the text no/such/file");
        let path = std::env::temp_dir().join(format!("finetune-latin1-{}", std::process::id()));
        std::fs::write(&path, b"caf\xe9").unwrap();
        let latin1 = load(Some(&path)).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(latin1.ends_with("is not UTF-8 (byte 3)"), "{latin1}");
    }
}
