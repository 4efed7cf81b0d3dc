//! The runtime hatch: what `spec.runtimeHatch` and Operations make of it (`spec/api.md` 2.8, design
//! section 2). The state is a latch in `System.status.hatch`; every change is kept in its history.

use jiff::Timestamp;

use crate::crd::system::MAX_HATCH_CHANGES;
use crate::crd::{Hatch, HatchChange, HatchState, RuntimeHatch, System};

/// Who changes the hatch, and why.
#[derive(Clone, Copy, Debug, Default)]
pub struct Order<'a> {
    pub by: &'a str,
    pub reason: &'a str,
    /// Uid of the Operation; empty for the spec.
    pub operation: &'a str,
}

/// The hatch once the spec has had its effect: `Disarmed` locks; `Armed` arms when it is new, and then
/// leaves what an Operation has made of it; `Manual` leaves it as it is.
pub fn following(system: &System, now: Timestamp) -> Hatch {
    let mut hatch = system.status.as_ref().map(|s| s.hatch.clone()).unwrap_or_default();
    let wanted = system.spec.runtime_hatch;
    let followed = hatch.followed == Some(wanted);
    let state = match wanted {
        RuntimeHatch::Disarmed => HatchState::Disarmed,
        RuntimeHatch::Armed if !followed => HatchState::Armed,
        RuntimeHatch::Armed | RuntimeHatch::Manual => hatch.state,
    };
    if state != hatch.state || hatch.since.is_none() {
        let reason = format!("spec.runtimeHatch is {}", word(wanted));
        set(&mut hatch, state, Order { by: "spec", reason: &reason, operation: "" }, now);
    }
    hatch.followed = Some(wanted);
    hatch
}

/// The hatch as `order` wants it. Equal to the present one when nothing has to change.
///
/// # Errors
/// A sentence for a person when the spec locks the hatch and it is to be armed.
pub fn ordered(
    system: &System,
    state: HatchState,
    order: Order,
    now: Timestamp,
) -> Result<Hatch, &'static str> {
    let mut hatch = following(system, now);
    if state == HatchState::Armed && system.spec.runtime_hatch == RuntimeHatch::Disarmed {
        return Err(
            "spec.runtimeHatch of the System is Disarmed, which locks the hatch: set it to Manual or Armed",
        );
    }
    if hatch.state != state {
        set(&mut hatch, state, order, now);
    }
    Ok(hatch)
}

/// Whether the Operation with this uid has already had its effect on the hatch.
pub fn was_set_by(hatch: &Hatch, operation: &str) -> bool {
    !operation.is_empty() && hatch.history.iter().any(|change| change.operation == operation)
}

fn set(hatch: &mut Hatch, state: HatchState, order: Order, now: Timestamp) {
    let cut = |text: &str, most: usize| text.chars().take(most).collect::<String>();
    hatch.state = state;
    hatch.since = Some(now);
    hatch.by = cut(order.by, 256);
    hatch.reason = cut(order.reason, 1024);
    hatch.history.push(HatchChange {
        state,
        at: now,
        by: hatch.by.clone(),
        reason: hatch.reason.clone(),
        operation: cut(order.operation, 64),
    });
    let excess = hatch.history.len().saturating_sub(MAX_HATCH_CHANGES);
    hatch.history.drain(..excess);
}

fn word(hatch: RuntimeHatch) -> &'static str {
    match hatch {
        RuntimeHatch::Manual => "Manual",
        RuntimeHatch::Armed => "Armed",
        RuntimeHatch::Disarmed => "Disarmed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{SystemSpec, SystemStatus};
    use crate::plan::fixtures::{at, now};

    fn system(spec: RuntimeHatch) -> System {
        let mut system = System::new("default", SystemSpec { runtime_hatch: spec, ..SystemSpec::default() });
        step(&mut system, |s| following(s, now()));
        system
    }

    fn step(system: &mut System, next: impl Fn(&System) -> Hatch) {
        let hatch = next(system);
        system.status = Some(SystemStatus { hatch, ..system.status.clone().unwrap_or_default() });
    }

    fn order(system: &mut System, state: HatchState, operation: &str) {
        step(system, |s| ordered(s, state, Order { by: "ann", reason: "r", operation }, at(1)).unwrap());
        step(system, |s| following(s, at(2)));
    }

    fn state(system: &System) -> HatchState {
        system.status.as_ref().unwrap().hatch.state
    }

    #[test]
    fn manual_is_disarmed_at_first_and_then_as_operations_say() {
        let mut s = system(RuntimeHatch::Manual);
        assert_eq!(state(&s), HatchState::Disarmed);
        order(&mut s, HatchState::Armed, "op1");
        assert_eq!(state(&s), HatchState::Armed);
        order(&mut s, HatchState::Disarmed, "op2");
        assert_eq!(state(&s), HatchState::Disarmed);
        let hatch = s.status.unwrap().hatch;
        let by: Vec<&str> = hatch.history.iter().map(|h| h.operation.as_str()).collect();
        assert_eq!(by, ["", "op1", "op2"]);
        assert!(was_set_by(&hatch, "op1") && !was_set_by(&hatch, "") && !was_set_by(&hatch, "op3"));
    }

    #[test]
    fn armed_in_the_spec_holds_until_an_operation_disarms_it_then_until_arm_or_an_edit() {
        let mut s = system(RuntimeHatch::Armed);
        assert_eq!(state(&s), HatchState::Armed);
        order(&mut s, HatchState::Disarmed, "op1");
        assert_eq!(state(&s), HatchState::Disarmed);
        // The next apply of the same spec does not undo it; an edited value does.
        for (spec, wanted) in [
            (RuntimeHatch::Armed, HatchState::Disarmed),
            (RuntimeHatch::Manual, HatchState::Disarmed),
            (RuntimeHatch::Armed, HatchState::Armed),
        ] {
            s.spec.runtime_hatch = spec;
            step(&mut s, |s| following(s, at(3)));
            assert_eq!(state(&s), wanted, "{spec:?}");
        }
    }

    #[test]
    fn disarmed_in_the_spec_locks() {
        let mut s = system(RuntimeHatch::Armed);
        s.spec.runtime_hatch = RuntimeHatch::Disarmed;
        step(&mut s, |s| following(s, at(3)));
        assert_eq!(state(&s), HatchState::Disarmed);
        let refused = ordered(&s, HatchState::Armed, Order::default(), at(4)).unwrap_err();
        assert!(refused.contains("locks the hatch"));
        s.spec.runtime_hatch = RuntimeHatch::Manual;
        step(&mut s, |s| following(s, at(5)));
        assert_eq!(state(&s), HatchState::Disarmed, "unlocking arms nothing");
    }

    #[test]
    fn an_order_meets_a_spec_that_has_not_had_its_effect_yet() {
        // A System that is armed by its spec, seen before the system controller has acted.
        let s = System::new(
            "default",
            SystemSpec { runtime_hatch: RuntimeHatch::Armed, ..SystemSpec::default() },
        );
        let hatch = ordered(&s, HatchState::Disarmed, Order::default(), now()).unwrap();
        assert_eq!((hatch.state, hatch.followed), (HatchState::Disarmed, Some(RuntimeHatch::Armed)));
    }

    #[test]
    fn what_is_so_already_is_not_noted_again_and_the_history_is_bounded() {
        let mut s = system(RuntimeHatch::Manual);
        let before = s.status.clone();
        order(&mut s, HatchState::Disarmed, "op1");
        assert_eq!(s.status, before);
        for n in 0..30 {
            let state = if n % 2 == 0 { HatchState::Armed } else { HatchState::Disarmed };
            order(&mut s, state, &format!("op{n}"));
        }
        let history = s.status.unwrap().hatch.history;
        assert_eq!(history.len(), MAX_HATCH_CHANGES);
        assert_eq!(history.last().unwrap().operation, "op29");
    }
}
