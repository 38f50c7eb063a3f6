//! Text to tokens (PTX ISA §4).

use super::{ParseError, Result};

/// One token and the line that it starts on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Token<'a> {
    pub kind: Kind<'a>,
    pub line: u32,
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind<'a> {
    /// An identifier, a `%register` or a keyword.
    Word(&'a str),
    /// A `.directive` or `.modifier`, without its dot; may contain `::`.
    Dot(&'a str),
    /// An integer constant (two's complement when a minus sign follows in the grammar).
    Int(u64),
    /// `0f…`: the bits of an f32.
    F32(u32),
    /// `0d…` or a decimal constant: the bits of an f64.
    F64(u64),
    /// A string without its quotes.
    Str(&'a str),
    /// Any other character.
    Punct(u8),
    /// After the last token.
    End,
}

/// Splits the text; comments and white space vanish.
pub fn lex(text: &str) -> Result<Vec<Token<'_>>> {
    let mut lexer = Lexer { text, bytes: text.as_bytes(), at: 0, line: 1 };
    let mut tokens = Vec::with_capacity(text.len() / 4);
    loop {
        lexer.skip_blanks()?;
        let line = lexer.line;
        let kind = lexer.next()?;
        tokens.push(Token { kind, line });
        if kind == Kind::End {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    line: u32,
}

const fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_' || c == b'$'
}

impl<'a> Lexer<'a> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn error<T>(&self, text: impl Into<String>) -> Result<T> {
        Err(ParseError { line: self.line, text: text.into() })
    }

    fn skip_blanks(&mut self) -> Result<()> {
        loop {
            match (self.peek(0), self.peek(1)) {
                (b'\n', _) => {
                    self.line += 1;
                    self.at += 1;
                }
                (b' ' | b'\t' | b'\r', _) => self.at += 1,
                (b'/', b'/') => {
                    while self.at < self.bytes.len() && self.peek(0) != b'\n' {
                        self.at += 1;
                    }
                }
                (b'/', b'*') => {
                    let Some(len) = self.text[self.at..].find("*/") else {
                        return self.error("comment without an end");
                    };
                    self.line += self.text[self.at..self.at + len].matches('\n').count() as u32;
                    self.at += len + 2;
                }
                _ => return Ok(()),
            }
        }
    }

    /// Takes bytes while `accept` holds.
    fn take(&mut self, accept: impl Fn(u8) -> bool) -> &'a str {
        let start = self.at;
        while self.at < self.bytes.len() && accept(self.bytes[self.at]) {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    fn next(&mut self) -> Result<Kind<'a>> {
        let c = self.peek(0);
        if self.at >= self.bytes.len() {
            // A NUL ends the text too: the driver is given C strings.
            return Ok(Kind::End);
        }
        if c == 0 {
            self.at = self.bytes.len();
            return Ok(Kind::End);
        }
        if c.is_ascii_digit() {
            return self.number();
        }
        if c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%') {
            let start = self.at;
            self.at += 1;
            self.take(is_word);
            return Ok(Kind::Word(&self.text[start..self.at]));
        }
        if c == b'.' && is_word(self.peek(1)) {
            self.at += 1;
            let start = self.at;
            loop {
                self.take(is_word);
                if (self.peek(0), self.peek(1)) != (b':', b':') {
                    return Ok(Kind::Dot(&self.text[start..self.at]));
                }
                self.at += 2;
            }
        }
        if c == b'"' {
            self.at += 1;
            let string = self.take(|c| c != b'"' && c != b'\n');
            if self.peek(0) != b'"' {
                return self.error("string without an end");
            }
            self.at += 1;
            return Ok(Kind::Str(string));
        }
        if !c.is_ascii_graphic() {
            return self.error(format!("unexpected byte {c:#04x}"));
        }
        self.at += 1;
        Ok(Kind::Punct(c))
    }

    fn number(&mut self) -> Result<Kind<'a>> {
        let start = self.at;
        if self.peek(0) == b'0' && matches!(self.peek(1), b'f' | b'F' | b'd' | b'D') {
            let double = matches!(self.peek(1), b'd' | b'D');
            self.at += 2;
            let digits = self.take(|c| c.is_ascii_hexdigit());
            let bits = u64::from_str_radix(digits, 16);
            return match (double, digits.len(), bits) {
                (false, 8, Ok(bits)) => Ok(Kind::F32(bits as u32)),
                (true, 16, Ok(bits)) => Ok(Kind::F64(bits)),
                _ => self.error("a hexadecimal float has 8 (0f) or 16 (0d) digits"),
            };
        }
        let (radix, skip) = match (self.peek(0), self.peek(1)) {
            (b'0', b'x' | b'X') => (16, 2),
            (b'0', b'b' | b'B') => (2, 2),
            (b'0', b'0'..=b'7') => (8, 1),
            _ => (10, 0),
        };
        if radix == 10 {
            self.take(|c| c.is_ascii_digit());
            let fraction = self.peek(0) == b'.' && self.peek(1).is_ascii_digit();
            let exponent = matches!(self.peek(0), b'e' | b'E');
            if fraction || exponent {
                if fraction {
                    self.at += 1;
                    self.take(|c| c.is_ascii_digit());
                }
                if matches!(self.peek(0), b'e' | b'E') {
                    self.at += 1;
                    if matches!(self.peek(0), b'+' | b'-') {
                        self.at += 1;
                    }
                    self.take(|c| c.is_ascii_digit());
                }
                return match self.text[start..self.at].parse::<f64>() {
                    Ok(value) => Ok(Kind::F64(value.to_bits())),
                    Err(_) => self.error("malformed float"),
                };
            }
        } else {
            self.at += skip;
            self.take(|c| c.is_ascii_hexdigit());
        }
        let Ok(value) = u64::from_str_radix(&self.text[start + skip..self.at], radix) else {
            return self.error(format!("malformed integer {}", &self.text[start..self.at]));
        };
        if self.peek(0) == b'U' {
            self.at += 1;
        }
        if is_word(self.peek(0)) {
            return self.error("a number runs into a name");
        }
        Ok(Kind::Int(value))
    }
}
