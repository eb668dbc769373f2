//! The waiter's user name at the API server, for the command that shows its permissions.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use migration_gate_core::names::TOKEN_MOUNT_PATH;

/// The user's name from the server's refusal, or else from the pod's token, or else a placeholder.
pub(super) fn user(refusal: &str) -> String {
    refused(refusal)
        .map(str::to_owned)
        .or_else(|| {
            let token = std::fs::read_to_string(format!("{TOKEN_MOUNT_PATH}/token")).ok()?;
            subject(token.trim())
        })
        .unwrap_or_else(|| "system:serviceaccount:NAMESPACE:SERVICEACCOUNT".to_owned())
}

/// `jobs.batch is forbidden: User "system:serviceaccount:a:b" cannot list …`
fn refused(refusal: &str) -> Option<&str> {
    let (_, rest) = refusal.split_once("User \"")?;
    let (user, _) = rest.split_once('"')?;
    (!user.is_empty()).then_some(user)
}

/// The claim `sub` of a JSON Web Token (RFC 7519, section 4.1.2). It is not verified, because it is
/// only printed.
fn subject(token: &str) -> Option<String> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&payload).ok()?;
    claims.get("sub")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_names_the_user() {
        let refusal = "jobs.batch is forbidden: User \"system:serviceaccount:a:b\" cannot list \
                       resource \"jobs\" in API group \"batch\" in the namespace \"a\"";
        assert_eq!(user(refusal), "system:serviceaccount:a:b");
        assert_eq!(
            user("Unauthorized"),
            "system:serviceaccount:NAMESPACE:SERVICEACCOUNT"
        );
    }

    #[test]
    fn a_token_names_its_subject() {
        let payload = URL_SAFE_NO_PAD.encode(r#"{"sub":"system:serviceaccount:a:b"}"#);
        let token = format!("e30.{payload}.c2ln");
        assert_eq!(
            subject(&token).as_deref(),
            Some("system:serviceaccount:a:b")
        );
        assert_eq!(subject("no token"), None);
        assert_eq!(subject("a.%.c"), None);
    }
}
