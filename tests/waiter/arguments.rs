//! Arguments that the waiter refuses.

use testkit::fake::FakeApi;

use crate::start_with;

#[test]
fn arguments_that_cannot_be_meant_are_refused() {
    let api = FakeApi::start();
    for (args, says) in [
        (&[][..], "--image: it is missing"),
        (&["--image="], "--image: it is missing"),
        (&["--image=web:2", "--record=.."], "--record: "),
    ] {
        let ended = start_with(&api, args).ends();
        assert_eq!(ended.code, Some(2), "{args:?}: {}", ended.output);
        assert!(ended.termination.contains(says), "{}", ended.termination);
    }
    assert_eq!(api.requests(), Vec::<String>::new());

    // clap's errors are written there, too.
    let ended = start_with(&api, &["--image=web:2", "--timeout=abc"]).ends_with(2);
    assert_eq!(
        ended.termination,
        "cannot wait: invalid value 'abc' for '--timeout <DURATION>': `abc` is not a duration; write it as \
         `10m`, `90s` or `1h30m`"
    );
}
