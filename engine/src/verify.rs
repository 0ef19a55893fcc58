//! Webhook signatures, over the raw bytes and in constant time. Several secrets
//! may hold at once, so that one can be rotated without losing a delivery.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use loopy_contract::manifest::VerifyScheme;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::Value;
use sha2::Sha256;
use std::collections::BTreeMap;

/// How far a signed time stamp may be from now, in seconds (Stripe, Slack and
/// Standard Webhooks all recommend five minutes).
pub(crate) const TOLERANCE_SECONDS: i64 = 300;

/// What a public key of Standard Webhooks begins with.
const PUBLIC_KEY: &str = "whpk_";

/// Why a delivery was refused. Only for our own log; the sender hears 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The scheme's header is missing.
    #[error("the signature header is missing")]
    Missing,
    /// The header does not have the scheme's form.
    #[error("the signature header has another form")]
    Form,
    /// The signed time is too far from now.
    #[error("the signed time stamp is too old or lies ahead")]
    Stale,
    /// No secret gives this signature.
    #[error("the signature does not match")]
    Mismatch,
}

/// The headers that a scheme reads.
fn needed(scheme: VerifyScheme) -> &'static [&'static str] {
    match scheme {
        VerifyScheme::None => &[],
        VerifyScheme::Github => &["x-hub-signature-256"],
        VerifyScheme::Sentry => &["sentry-hook-signature"],
        VerifyScheme::Linear => &["linear-signature"],
        VerifyScheme::Pagerduty => &["x-pagerduty-signature"],
        VerifyScheme::Slack => &["x-slack-request-timestamp", "x-slack-signature"],
        VerifyScheme::Stripe => &["stripe-signature"],
        VerifyScheme::Standard => &["webhook-id", "webhook-timestamp", "webhook-signature"],
    }
}

/// Whether a delivery has the headers of its scheme, which its body need not be known for.
///
/// # Errors
/// [`Refused::Missing`].
pub(crate) fn signed(
    scheme: VerifyScheme,
    headers: &BTreeMap<String, String>,
) -> Result<(), Refused> {
    match needed(scheme)
        .iter()
        .all(|name| headers.contains_key(*name))
    {
        true => Ok(()),
        false => Err(Refused::Missing),
    }
}

/// Checks a delivery. [`VerifyScheme::None`] always holds.
///
/// # Errors
/// [`Refused`] says which check failed.
pub(crate) fn verify(
    scheme: VerifyScheme,
    secrets: &[String],
    headers: &BTreeMap<String, String>,
    body: &[u8],
    now: Timestamp,
) -> Result<(), Refused> {
    signed(scheme, headers)?;
    let header = |name: &str| {
        headers
            .get(name)
            .map(String::as_str)
            .ok_or(Refused::Missing)
    };
    match scheme {
        VerifyScheme::None => Ok(()),
        // docs.github.com: Validating webhook deliveries
        VerifyScheme::Github => {
            let hex = header("x-hub-signature-256")?
                .strip_prefix("sha256=")
                .ok_or(Refused::Form)?;
            any(secrets, &[body], &[from_hex(hex)?])
        }
        // docs.sentry.io: Integration platform, webhooks
        VerifyScheme::Sentry => any(
            secrets,
            &[body],
            &[from_hex(header("sentry-hook-signature")?)?],
        ),
        // linear.app/developers/webhooks: the signed time is in the body, in milliseconds
        VerifyScheme::Linear => {
            any(secrets, &[body], &[from_hex(header("linear-signature")?)?])?;
            let body: Value = serde_json::from_slice(body).map_err(|_| Refused::Form)?;
            match body.get("webhookTimestamp").map(Value::as_i64) {
                None => Ok(()),
                Some(None) => Err(Refused::Form),
                Some(Some(sent)) => fresh_at(sent / 1000, now),
            }
        }
        // developer.pagerduty.com: Verifying signatures
        VerifyScheme::Pagerduty => {
            let signatures = header("x-pagerduty-signature")?
                .split(',')
                .filter_map(|signature| signature.trim().strip_prefix("v1="))
                .map(from_hex)
                .collect::<Result<Vec<_>, _>>()?;
            any(secrets, &[body], &signatures)
        }
        // docs.slack.dev: Verifying requests from Slack
        VerifyScheme::Slack => {
            let time = header("x-slack-request-timestamp")?;
            fresh(time, now)?;
            let hex = header("x-slack-signature")?
                .strip_prefix("v0=")
                .ok_or(Refused::Form)?;
            any(
                secrets,
                &[b"v0:", time.as_bytes(), b":", body],
                &[from_hex(hex)?],
            )
        }
        // docs.stripe.com/webhooks: Verify webhook signatures manually
        VerifyScheme::Stripe => {
            let parts = header("stripe-signature")?
                .split(',')
                .filter_map(|p| p.split_once('='));
            let (mut time, mut signatures) = (None, Vec::new());
            for (key, value) in parts {
                match key.trim() {
                    "t" => time = Some(value),
                    "v1" => signatures.push(from_hex(value)?),
                    _ => {}
                }
            }
            let time = time.ok_or(Refused::Form)?;
            fresh(time, now)?;
            any(secrets, &[time.as_bytes(), b".", body], &signatures)
        }
        VerifyScheme::Standard => {
            let (id, time) = (header("webhook-id")?, header("webhook-timestamp")?);
            fresh(time, now)?;
            let signed = [id.as_bytes(), b".", time.as_bytes(), b".", body];
            standard(secrets, &signed, header("webhook-signature")?)
        }
    }
}

/// The specification of standardwebhooks.com: `v1` is signed with a secret that both
/// sides know (`whsec_`), `v1a` with a key whose public half (`whpk_`) is known here.
/// What a value begins with says which it is, so that nobody who knows a public key can
/// use it as a secret.
fn standard(secrets: &[String], signed: &[&[u8]], signatures: &str) -> Result<(), Refused> {
    let of = |version: &str| -> Vec<Vec<u8>> {
        let all = signatures.split_whitespace();
        all.filter_map(|signature| {
            let (of, encoded) = signature.split_once(',')?;
            (of == version).then(|| STANDARD.decode(encoded).ok())?
        })
        .collect()
    };
    let (shared, own) = (of("v1"), of("v1a"));
    if shared.is_empty() && own.is_empty() {
        return Err(Refused::Form);
    }
    let (public, secret): (Vec<&String>, Vec<&String>) = secrets
        .iter()
        .partition(|secret| secret.starts_with(PUBLIC_KEY));
    let message = signed.concat();
    for key in public {
        let Ok(key) = STANDARD.decode(&key[PUBLIC_KEY.len()..]) else {
            tracing::warn!("a public key of Standard Webhooks ({PUBLIC_KEY}…) is not base64");
            continue;
        };
        let key = UnparsedPublicKey::new(&ED25519, key);
        if own.iter().any(|one| key.verify(&message, one).is_ok()) {
            return Ok(());
        }
    }
    let keys: Vec<Vec<u8>> = secret
        .into_iter()
        .map(|secret| {
            let encoded = secret.strip_prefix("whsec_").unwrap_or(secret);
            STANDARD
                .decode(encoded)
                .unwrap_or_else(|_| secret.as_bytes().to_vec())
        })
        .collect();
    match shared.is_empty() {
        true => Err(Refused::Mismatch),
        false => any_key(keys.iter().map(Vec::as_slice), signed, &shared),
    }
}

fn any(secrets: &[String], signed: &[&[u8]], signatures: &[Vec<u8>]) -> Result<(), Refused> {
    any_key(secrets.iter().map(String::as_bytes), signed, signatures)
}

fn any_key<'a>(
    keys: impl Iterator<Item = &'a [u8]>,
    signed: &[&[u8]],
    signatures: &[Vec<u8>],
) -> Result<(), Refused> {
    if signatures.is_empty() {
        return Err(Refused::Form);
    }
    // An empty secret is none: anyone could sign with it.
    for key in keys.filter(|key| !key.is_empty()) {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
            continue;
        };
        signed.iter().for_each(|part| mac.update(part));
        // `verify_slice` compares in constant time.
        if signatures
            .iter()
            .any(|signature| mac.clone().verify_slice(signature).is_ok())
        {
            return Ok(());
        }
    }
    Err(Refused::Mismatch)
}

fn from_hex(text: &str) -> Result<Vec<u8>, Refused> {
    hex::decode(text.trim()).map_err(|_| Refused::Form)
}

fn fresh(time: &str, now: Timestamp) -> Result<(), Refused> {
    fresh_at(time.trim().parse().map_err(|_| Refused::Form)?, now)
}

fn fresh_at(signed: i64, now: Timestamp) -> Result<(), Refused> {
    let apart = now.as_second().saturating_sub(signed).saturating_abs();
    if apart > TOLERANCE_SECONDS {
        Err(Refused::Stale)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    // The vector GitHub publishes in "Validating webhook deliveries".
    const GITHUB: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    #[test]
    fn github_s_published_vector_holds() {
        let now = Timestamp::UNIX_EPOCH;
        let secrets = ["old".to_owned(), "It's a Secret to Everybody".to_owned()];
        let signed = headers(&[("x-hub-signature-256", GITHUB)]);
        let check = |headers: &BTreeMap<String, String>, body: &[u8]| {
            verify(VerifyScheme::Github, &secrets, headers, body, now)
        };
        assert_eq!(check(&signed, b"Hello, World!"), Ok(()));
        assert_eq!(check(&signed, b"Hello, World"), Err(Refused::Mismatch));
        assert_eq!(
            check(&headers(&[]), b"Hello, World!"),
            Err(Refused::Missing)
        );
        let bare = headers(&[("x-hub-signature-256", &GITHUB[7..])]);
        assert_eq!(check(&bare, b"Hello, World!"), Err(Refused::Form));
    }

    // The vector Slack publishes in "Verifying requests from Slack".
    #[test]
    fn slack_s_published_vector_holds_within_five_minutes() {
        let body = b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
        let secrets = ["8f742231b10e8888abcd99yyyzzz85a5".to_owned()];
        let signed = headers(&[
            ("x-slack-request-timestamp", "1531420618"),
            (
                "x-slack-signature",
                "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
            ),
        ]);
        let at = |second| Timestamp::from_second(second).unwrap();
        let check = |now| verify(VerifyScheme::Slack, &secrets, &signed, body, now);
        assert_eq!(check(at(1_531_420_618)), Ok(()));
        assert_eq!(check(at(1_531_420_618 + 301)), Err(Refused::Stale));
        assert_eq!(check(at(1_531_420_618 - 301)), Err(Refused::Stale));
    }

    // The vector of the Standard Webhooks libraries.
    #[test]
    fn the_standard_webhooks_vector_holds() {
        let secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned()];
        let signed = headers(&[
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1614265330"),
            (
                "webhook-signature",
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
        ]);
        let now = Timestamp::from_second(1_614_265_330).unwrap();
        let check = |body| verify(VerifyScheme::Standard, &secrets, &signed, body, now);
        assert_eq!(check(br#"{"test": 2432232314}"#), Ok(()));
        assert_eq!(check(br#"{"test": 2432232315}"#), Err(Refused::Mismatch));
    }

    // The specification has no vector for `v1a`, and the libraries none either. This one
    // is the key of RFC 8032, section 7.1, test 1, and Node's `crypto.sign` over
    // `msg_1.1700000000.{"a":1}`.
    #[test]
    fn a_public_key_of_standard_webhooks_verifies_v1a_and_nothing_else() {
        const KEY: &str = "whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
        const SIGNED: &str = "v1a,0pYc3grQLAYTYYtSm9Z+VOqkyvPhiL3xzHrpcxS6/6sXV93wWnX+gE4ZSgyOhnhCp3VTI/jx2HUyQVOO3T5OCg==";
        const SHARED: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        const BY_SHARED: &str = "v1,hVsFLpmw4Ib/Xm0eZLt3KqYBZdt0U8gdGeuz0EsGv78=";
        let check = |keys: &[&str], signature: &str, body: &[u8], at: i64| {
            let secrets: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            let signed = headers(&[
                ("webhook-id", "msg_1"),
                ("webhook-timestamp", "1700000000"),
                ("webhook-signature", signature),
            ]);
            let now = Timestamp::from_second(at).unwrap();
            verify(VerifyScheme::Standard, &secrets, &signed, body, now)
        };
        let (now, body) = (1_700_000_000, br#"{"a":1}"#);
        assert_eq!(check(&[KEY], SIGNED, body, now), Ok(()));
        assert_eq!(check(&[KEY], SIGNED, body, now + 301), Err(Refused::Stale));
        assert_eq!(check(&[KEY], SIGNED, b"{}", now), Err(Refused::Mismatch));
        // Both kinds may stand in the header, and both kinds of keys may be known.
        let both = format!("{BY_SHARED} {SIGNED}");
        for keys in [&[KEY][..], &[SHARED], &[KEY, SHARED], &["whsec_eA==", KEY]] {
            assert_eq!(check(keys, &both, body, now), Ok(()), "{keys:?}");
        }
        for (keys, signature) in [
            (SHARED, SIGNED),
            (KEY, BY_SHARED),
            ("whpk_", SIGNED),
            ("whpk_!", SIGNED),
            ("whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHUR0=", SIGNED),
        ] {
            assert_eq!(
                check(&[keys], signature, body, now),
                Err(Refused::Mismatch),
                "{keys}"
            );
        }
        // The public key is no secret: what is signed with it as one does not hold.
        for key in [KEY.as_bytes().to_vec(), STANDARD.decode(&KEY[5..]).unwrap()] {
            let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
            mac.update(br#"msg_1.1700000000.{"a":1}"#);
            let forged = STANDARD.encode(mac.finalize().into_bytes());
            let forged = format!("v1,{forged} v1a,{forged}");
            assert_eq!(check(&[KEY], &forged, body, now), Err(Refused::Mismatch));
        }
        for cut in 0..SIGNED.len() {
            assert!(check(&[KEY], &SIGNED[..cut], body, now).is_err(), "{cut}");
        }
    }

    // Signed by the providers' own libraries: stripe 16.1.0 and slack_sdk 3.47.0 for
    // Python, standardwebhooks 1.1.0, and a body that @linear/sdk 98.0.0 accepts.
    // Sentry's documentation gives the rule and no vector (its last line here).
    #[test]
    fn what_the_providers_own_libraries_sign_holds() {
        let linear = r#"{"action":"create","type":"Issue","webhookTimestamp":1700000000000}"#;
        type Case<'a> = (VerifyScheme, &'a str, &'a [(&'a str, &'a str)], &'a str);
        let cases: [Case<'_>; 5] = [
            (
                VerifyScheme::Stripe,
                "whsec_test_secret",
                &[(
                    "stripe-signature",
                    "t=1700000000,v1=0c8670ed117751cc551a20e35839447075c42800ea3cf3e8a2fbda99cd1e6edd",
                )],
                r#"{"id":"evt_1","object":"event"}"#,
            ),
            (
                VerifyScheme::Slack,
                "8f742231b10e8888abcd99yyyzzz85a5",
                &[
                    ("x-slack-request-timestamp", "1700000000"),
                    (
                        "x-slack-signature",
                        "v0=b52c6fcfcab356d5b4aba9decc3e858e95c29a82017da141d845c16dcdc884f0",
                    ),
                ],
                r#"{"type":"event_callback"}"#,
            ),
            (
                VerifyScheme::Standard,
                "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                &[
                    ("webhook-id", "msg_1"),
                    ("webhook-timestamp", "1700000000"),
                    (
                        "webhook-signature",
                        "v1,hVsFLpmw4Ib/Xm0eZLt3KqYBZdt0U8gdGeuz0EsGv78=",
                    ),
                ],
                r#"{"a":1}"#,
            ),
            (
                VerifyScheme::Linear,
                "lin_wh_test",
                &[(
                    "linear-signature",
                    "0e30fc8cd283b78c118cae3e3685e9eb3595a5f7146ae4b53f8f6b042364e895",
                )],
                linear,
            ),
            (
                VerifyScheme::Sentry,
                "It's a Secret to Everybody",
                &[("sentry-hook-signature", &GITHUB[7..])],
                "Hello, World!",
            ),
        ];
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        for (scheme, secret, signed, body) in cases {
            let timed = !matches!(scheme, VerifyScheme::Sentry);
            let signed = headers(signed);
            let secrets = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
            let check = |keys: &[&str], body: &str, apart: i64| {
                let now = now
                    .checked_add(jiff::SignedDuration::from_secs(apart))
                    .unwrap();
                verify(scheme, &secrets(keys), &signed, body.as_bytes(), now)
            };
            assert_eq!(check(&[secret], body, 0), Ok(()), "{scheme:?}");
            assert_eq!(check(&["new", secret], body, 300), Ok(()), "{scheme:?}");
            let refused = |keys: &[&str], body: &str| check(keys, body, 0).unwrap_err();
            assert_eq!(refused(&["other"], body), Refused::Mismatch, "{scheme:?}");
            assert_eq!(refused(&[], body), Refused::Mismatch, "{scheme:?}");
            assert_eq!(refused(&[""], body), Refused::Mismatch, "{scheme:?}");
            assert_eq!(refused(&[secret], &format!("{body} ")), Refused::Mismatch);
            for apart in [-301, 301] {
                let stale = if timed { Err(Refused::Stale) } else { Ok(()) };
                assert_eq!(check(&[secret], body, apart), stale, "{scheme:?}");
            }
            // Every header is needed, and one that is cut is refused.
            for name in signed.keys() {
                let mut fewer = signed.clone();
                fewer.remove(name);
                let missing = verify(scheme, &secrets(&[secret]), &fewer, body.as_bytes(), now);
                assert_eq!(missing, Err(Refused::Missing), "{scheme:?} {name}");
                for cut in 0..signed[name].len() {
                    let mut cut_off = signed.clone();
                    cut_off.insert(name.clone(), signed[name][..cut].to_owned());
                    let got = verify(scheme, &secrets(&[secret]), &cut_off, body.as_bytes(), now);
                    assert!(got.is_err(), "{scheme:?} {name} cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn pagerduty_takes_any_of_several_signatures() {
        let secrets = ["a subscription's secret".to_owned()];
        let mut mac = Hmac::<Sha256>::new_from_slice(secrets[0].as_bytes()).unwrap();
        mac.update(b"{}");
        let good = hex::encode(mac.finalize().into_bytes());
        let check = |value: &str, body: &[u8]| {
            let signed = headers(&[("x-pagerduty-signature", value)]);
            let now = Timestamp::UNIX_EPOCH;
            verify(VerifyScheme::Pagerduty, &secrets, &signed, body, now)
        };
        let other = "0".repeat(64);
        assert_eq!(check(&format!("v1={good}"), b"{}"), Ok(()));
        assert_eq!(check(&format!("v1={other},v1={good}"), b"{}"), Ok(()));
        assert_eq!(check(&format!("v1={good}"), b"{ }"), Err(Refused::Mismatch));
        assert_eq!(check(&good, b"{}"), Err(Refused::Form));
        assert_eq!(check("v1=no", b"{}"), Err(Refused::Form));
        assert_eq!(check(&format!("v0={good}"), b"{}"), Err(Refused::Form));
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(
            verify(VerifyScheme::Pagerduty, &secrets, &headers(&[]), b"{}", now),
            Err(Refused::Missing)
        );
    }

    #[test]
    fn stripe_takes_any_of_several_signatures() {
        let secrets = ["whsec_test".to_owned()];
        let mut mac = Hmac::<Sha256>::new_from_slice(b"whsec_test").unwrap();
        mac.update(b"1000.{}");
        let good = hex::encode(mac.finalize().into_bytes());
        let value = format!("t=1000,v1={},v1={good},v0=ff", "0".repeat(64));
        let now = Timestamp::from_second(1100).unwrap();
        let check = |value: &str| {
            let signed = headers(&[("stripe-signature", value)]);
            verify(VerifyScheme::Stripe, &secrets, &signed, b"{}", now)
        };
        assert_eq!(check(&value), Ok(()));
        assert_eq!(check("t=1000"), Err(Refused::Form));
        assert_eq!(check(&format!("v1={good}")), Err(Refused::Form));
    }
}
