//! The tokenizer that a GGUF file describes in its `tokenizer.ggml.*` metadata.

use std::collections::HashMap;

use anyhow::{Context, Result, anyhow, bail};
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{Prepend, Replace};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer};

/// How Llama 3 cuts text before merging: at most three digits, a word with the sign before it.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Builds the tokenizer of a GGUF file: byte-level BPE ("gpt2") or SentencePiece BPE ("llama").
pub fn from_gguf(content: &Content) -> Result<Tokenizer> {
    let model = text(content, "tokenizer.ggml.model")?;
    match model {
        "gpt2" => byte_level(content),
        "llama" => sentence_piece(content),
        other => bail!("the tokenizer model {other:?} is not supported (only \"gpt2\" and \"llama\" are)"),
    }
}

fn byte_level(content: &Content) -> Result<Tokenizer> {
    let mut tokenizer = Tokenizer::from_gguf(content).context("damaged tokenizer metadata")?;
    // candle builds vocabulary and merges, but does not know every way to cut the text before them.
    let gpt2 = |use_regex| PreTokenizerWrapper::from(ByteLevel::new(false, true, use_regex));
    let split = |regex: &str| -> Result<PreTokenizerWrapper> {
        let pattern = SplitPattern::Regex(regex.to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        Ok(split.map_err(anyhow::Error::msg)?.into())
    };
    let steps = match content.metadata.get("tokenizer.ggml.pre").map(|_| text(content, "tokenizer.ggml.pre"))
    {
        None => vec![gpt2(true)],
        Some(name) => match name? {
            "default" | "gpt-2" => vec![gpt2(true)],
            "smollm" => vec![Digits::new(true).into(), gpt2(true)],
            "llama3" | "llama-bpe" | "llama-v3" => vec![split(LLAMA3)?, gpt2(false)],
            other => bail!("the pre-tokenizer {other:?} is not supported (gpt-2, smollm and llama-bpe are)"),
        },
    };
    tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
    Ok(tokenizer)
}

/// SentencePiece joins the pair whose union has the best score. As a list of merges: every way to make
/// a token of two others, best score first.
fn sentence_piece(content: &Content) -> Result<Tokenizer> {
    let tokens = strings(content, "tokenizer.ggml.tokens")?;
    let scores: Vec<f32> = array(content, "tokenizer.ggml.scores")?
        .iter()
        .map(|score| score.to_f32().map_err(anyhow::Error::from))
        .collect::<Result<_>>()?;
    if scores.len() != tokens.len() {
        bail!("damaged tokenizer metadata: {} tokens but {} scores", tokens.len(), scores.len());
    }
    let ids: HashMap<&str, u32> = tokens.iter().zip(0..).map(|(token, id)| (*token, id)).collect();
    let mut merges = Vec::new();
    for (token, score) in tokens.iter().zip(&scores) {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(l), Some(r)) = (ids.get(left), ids.get(right)) {
                merges.push((*score, *l, *r, left, right));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let merges = merges.into_iter().map(|(.., left, right)| (left.to_owned(), right.to_owned())).collect();
    let vocabulary: Vocab = ids.iter().map(|(token, id)| (token.to_string(), *id)).collect();
    let unknown = tokens.first().ok_or_else(|| anyhow!("damaged tokenizer metadata: no tokens"))?;
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .unk_token(unknown.to_string())
        .fuse_unk(true)
        .byte_fallback(true)
        .build()
        .map_err(anyhow::Error::msg)?;

    let mut tokenizer = Tokenizer::new(bpe);
    let prefix = match content.metadata.get("tokenizer.ggml.add_space_prefix") {
        Some(value) => value.to_bool()?,
        None => true,
    };
    let replace = |from: &str, to: &str| Replace::new(from, to).map_err(anyhow::Error::msg);
    let mut normalizers: Vec<NormalizerWrapper> = vec![replace(" ", "▁")?.into()];
    let mut decoders: Vec<DecoderWrapper> =
        vec![replace("▁", " ")?.into(), ByteFallback::default().into(), Fuse::default().into()];
    if prefix {
        normalizers.insert(0, Prepend::new("▁".to_owned()).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    let normalizer = tokenizers::normalizers::Sequence::new(normalizers);
    tokenizer.with_normalizer(Some(normalizer)).map_err(anyhow::Error::msg)?;
    tokenizer.with_decoder(Some(tokenizers::decoders::sequence::Sequence::new(decoders)));
    Ok(tokenizer)
}

fn value<'a>(content: &'a Content, key: &str) -> Result<&'a Value> {
    content.metadata.get(key).ok_or_else(|| anyhow!("the file has no {key}"))
}

fn text<'a>(content: &'a Content, key: &str) -> Result<&'a str> {
    Ok(value(content, key)?.to_string().with_context(|| format!("{key} is not a string"))?)
}

fn array<'a>(content: &'a Content, key: &str) -> Result<&'a [Value]> {
    Ok(value(content, key)?.to_vec().with_context(|| format!("{key} is not an array"))?)
}

fn strings<'a>(content: &'a Content, key: &str) -> Result<Vec<&'a str>> {
    array(content, key)?.iter().map(|value| Ok(value.to_string()?.as_str())).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use candle_core::quantized::gguf_file::VersionedMagic;

    /// A tokenizer of eight letters, a to h, one token each.
    pub fn letters() -> Tokenizer {
        let vocabulary: Vocab = ('a'..='h').zip(0..).map(|(letter, id)| (letter.to_string(), id)).collect();
        Tokenizer::new(BPE::builder().vocab_and_merges(vocabulary, vec![]).build().unwrap())
    }

    pub fn array_of(items: &[&str]) -> Value {
        Value::Array(items.iter().map(|item| Value::String(item.to_string())).collect())
    }

    fn content(model: &str, pre: &str, tokens: &[&str], more: Vec<(&str, Value)>) -> Content {
        let mut metadata = HashMap::from([
            ("tokenizer.ggml.model".to_owned(), Value::String(model.to_owned())),
            ("tokenizer.ggml.pre".to_owned(), Value::String(pre.to_owned())),
            ("tokenizer.ggml.tokens".to_owned(), array_of(tokens)),
        ]);
        metadata.extend(more.into_iter().map(|(key, value)| (key.to_owned(), value)));
        let tensor_infos = HashMap::new();
        Content { magic: VersionedMagic::GgufV3, metadata, tensor_infos, tensor_data_offset: 0 }
    }

    fn smollm() -> Content {
        let tokens = ["a", "b", "Ġ", "1", "2", "ab", "Ġab", "12"];
        let merges = array_of(&["a b", "Ġ ab", "1 2"]);
        content("gpt2", "smollm", &tokens, vec![("tokenizer.ggml.merges", merges)])
    }

    #[test]
    fn byte_level_round_trip_with_single_digits() {
        let tokenizer = from_gguf(&smollm()).unwrap();
        let encoding = tokenizer.encode_fast("ab ab 12", false).unwrap();
        // No blank is put before the text, and 1 and 2 stay apart although a merge would join them.
        assert_eq!(encoding.get_ids(), [5, 6, 2, 3, 4]);
        assert_eq!(tokenizer.decode(encoding.get_ids(), false).unwrap(), "ab ab 12");
    }

    #[test]
    fn sentence_piece_round_trip() {
        let tokens = ["<unk>", "<0xC3>", "<0xA4>", "▁", "a", "b", "ab", "▁ab", "ba"];
        let scores = [0.0, 0.0, 0.0, -4.0, -5.0, -6.0, -2.0, -3.0, -1.0].map(Value::F32).to_vec();
        let file =
            content("llama", "default", &tokens, vec![("tokenizer.ggml.scores", Value::Array(scores))]);
        let tokenizer = from_gguf(&file).unwrap();
        let encoding = tokenizer.encode_fast("ab aba ä", false).unwrap();
        // "aba" is a + ba, as "ba" has the better score; ä is in the vocabulary as its bytes only.
        assert_eq!(encoding.get_ids(), [7, 3, 4, 8, 3, 1, 2]);
        assert_eq!(tokenizer.decode(encoding.get_ids(), false).unwrap(), "ab aba ä");
    }

    #[test]
    fn unknown_kinds_are_named() {
        let refuse = |model, pre| {
            let merges = vec![("tokenizer.ggml.merges", array_of(&[]))];
            from_gguf(&content(model, pre, &["a"], merges)).unwrap_err().to_string()
        };
        assert!(refuse("bert", "default").starts_with("the tokenizer model \"bert\" is not supported"));
        assert!(refuse("gpt2", "viking").starts_with("the pre-tokenizer \"viking\" is not supported"));
    }
}
