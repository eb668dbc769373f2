//! The value of a plain scalar, as Go's yaml.v2 resolves it.

use base64::Engine as _;
use serde_json::{Number, Value};

/// The value of a plain scalar without a tag.
///
/// Numbers come out as Go would write them into JSON: a float without a fraction is an integer.
/// A value that JSON lacks (`.inf`, `.nan`) is an error.
pub(super) fn resolve(text: &str) -> Result<Value, String> {
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            Value::Bool(true)
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            Value::Bool(false)
        }
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF"
        | "-.inf" | "-.Inf" | "-.INF" => {
            return Err(format!(
                "`{text}` has no place in JSON; quote it if it is text"
            ));
        }
        _ => number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number),
    })
}

/// The text that a `!!binary` scalar encodes. Invalid UTF-8 is replaced, as in Go's JSON.
pub(super) fn binary(text: &str) -> Result<String, String> {
    let text = text.replace(['\r', '\n'], "");
    let bytes = base64::engine::general_purpose::STANDARD.decode(text);
    let bytes = bytes.map_err(|error| format!("this is not base64: {error}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The number in a plain scalar; `None` if it is not a number.
pub(super) fn number(text: &str) -> Option<Number> {
    match text.bytes().next()? {
        b'0'..=b'9' | b'+' | b'-' | b'.' => {
            let stripped;
            let plain = if text.contains('_') {
                stripped = text.replace('_', "");
                &stripped
            } else {
                text
            };
            integer(plain).or_else(|| float(plain))
        }
        _ => None,
    }
}

/// As Go's `ParseInt` and `ParseUint` with base 0: the prefix determines the base.
fn integer(text: &str) -> Option<Number> {
    let (negative, signed, digits) = match text.as_bytes().first()? {
        b'-' => (true, true, &text[1..]),
        b'+' => (false, true, &text[1..]),
        _ => (false, false, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', _, ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', _, ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', _, ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if !digits
        .bytes()
        .all(|digit| char::from(digit).is_digit(radix))
    {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    if negative {
        return 0i64.checked_sub_unsigned(magnitude).map(Number::from);
    }
    // Above an i64 Go tries `ParseUint`, which takes no sign.
    (!signed || i64::try_from(magnitude).is_ok()).then(|| Number::from(magnitude))
}

/// As yaml.v2's pattern `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`.
fn float(text: &str) -> Option<Number> {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let well_formed = match mantissa.split_once('.') {
        Some(("", fraction)) => !fraction.is_empty() && digits(fraction),
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => !mantissa.is_empty() && digits(mantissa),
    } && exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        !exponent.is_empty() && digits(exponent)
    });
    if !well_formed {
        return None;
    }
    let value: f64 = text.parse().ok()?;
    json_number(value)
}

/// Go's encoding/json writes a float below 1e21 without an exponent, so one without a fraction
/// reaches the API server as an integer.
#[allow(
    clippy::cast_possible_truncation,
    reason = "a whole number below 2^53 is exact in an i64"
)]
fn json_number(value: f64) -> Option<Number> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT && !(value == 0.0 && value.is_sign_negative()) {
        return Some(Number::from(value as i64));
    }
    Number::from_f64(value)
}
