//! Each planted fault is found by the check that it is for; the same check passes without it, in the file where it stands.

#![allow(clippy::print_stdout, reason = "what a check found is shown")]

use syntha_identity::Fault;

use crate::{hashing, login, sessions, throttle, timing, tokens};

macro_rules! found {
    ($($name:ident: $fault:ident by $check:expr;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                let check: fn(Option<Fault>) -> _ = $check;
                let found = check(Some(Fault::$fault)).await;
                println!("{:?}: {found:?}", Fault::$fault);
                assert!(found.is_err(), "nobody noticed");
            }
        )*
    };
}

found! {
    a_missing_dummy_is_found: DummyMissing by |fault| login::refusals_are_the_same_work(fault);
    a_missing_dummy_is_found_by_time: DummyMissing by |fault| timing::refusals_take_one_time(fault, 10);
    a_hasty_suspension_is_found: SuspendedFirst by |fault| login::refusals_are_the_same_work(fault);
    a_hasty_suspension_is_found_by_time: SuspendedFirst by |fault| timing::refusals_take_one_time(fault, 10);
    a_session_that_outlives_its_revoke_is_found: RevokeIgnored by |fault| sessions::revocations_end_sessions(fault);
    a_late_revoke_is_found: RevokeLate by |fault| sessions::revocations_end_sessions(fault);
    a_forgotten_generation_is_found: GenerationIgnored by |fault| sessions::revocations_end_sessions(fault);
    a_freed_permit_is_found: PermitFreed by |fault| hashing::permits_stay_with_the_work(fault);
    logins_in_the_order_they_come_are_found: LoginsFirstCome by |fault| hashing::a_flood_waits_behind_itself(fault);
    a_late_throttle_is_found: ThrottleLate by |fault| throttle::guesses_are_bounded(fault, 2_000);
    throttles_apart_are_found: ThrottleApart by |fault| throttle::guesses_are_bounded(fault, 20_000);
    a_compared_prefix_is_found: PrefixCompared by |fault| tokens::a_look_alike_is_refused(fault);
    an_ignored_expiry_is_found: ExpiryIgnored by |fault| tokens::an_expired_token_ends(fault);
    an_ignored_clock_floor_is_found: ClockFloorIgnored by |fault| tokens::an_expired_token_ends(fault);
    a_note_that_revives_is_found: TouchRevives by |fault| tokens::a_late_note_revives_nothing(fault);
    ignored_rights_are_found: RightsIgnored by |fault| tokens::rights_bound_tokens(fault);
}
