//! What users may use: in the settings, for one user, and as it is shown.

use std::fmt;
use std::str::FromStr;

use clap::Args;
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use syntha::{Limit, LimitUsage, ResourceLimits, UsageReport, UserLimits, UserManager};

use crate::{Answer, Result};

/// Limits as a command or a settings file names them.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Limits {
    /// Entries: a number, `unlimited`, or `default` for what the plan or the settings say
    #[arg(long, value_name = "N")]
    max_contexts: Option<Amount>,
    /// Registered agents
    #[arg(long, value_name = "N")]
    max_agents: Option<Amount>,
    /// Topics
    #[arg(long, value_name = "N")]
    max_topics: Option<Amount>,
    /// Megabytes, of 1000000 bytes, of keys, values and history
    #[arg(long, value_name = "MB")]
    storage_limit_mb: Option<Amount>,
    /// Bytes of one value or message
    #[arg(long, value_name = "BYTES")]
    max_value_bytes: Option<Amount>,
    /// Bytes of history
    #[arg(long, value_name = "BYTES")]
    max_history_bytes: Option<Amount>,
    /// Calls a second in one process
    #[arg(long, value_name = "N")]
    max_operations_per_second: Option<Amount>,
    /// Calls under way at a time in one process
    #[arg(long, value_name = "N")]
    max_in_flight: Option<Amount>,
    /// Sessions open at a time in one process
    #[arg(long, value_name = "N")]
    max_sessions: Option<Amount>,
}

/// How much of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    Most(u64),
    Unlimited,
    /// What the next layer says.
    Default,
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "unlimited" => Ok(Self::Unlimited),
            "default" => Ok(Self::Default),
            number => number
                .parse()
                .map(Self::Most)
                .map_err(|_| "give a number, `unlimited` or `default`".to_owned()),
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Read;
        impl Visitor<'_> for Read {
            type Value = Amount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, \"unlimited\" or \"default\"")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> std::result::Result<Amount, E> {
                Ok(Amount::Most(number))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> std::result::Result<Amount, E> {
                u64::try_from(number)
                    .map(Amount::Most)
                    .map_err(|_| E::custom("a limit is no negative number"))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Amount, E> {
                match text.parse() {
                    Ok(Amount::Most(_)) | Err(_) => {
                        Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
                    }
                    Ok(amount) => Ok(amount),
                }
            }
        }
        from.deserialize_any(Read).map_err(|error| D::Error::custom(error.to_string()))
    }
}

impl Limits {
    /// What is said here, in the place of what those say.
    pub(crate) fn over(&self, mut limits: ResourceLimits) -> ResourceLimits {
        let megabytes = |amount| match amount {
            Amount::Most(megabytes) => Amount::Most(megabytes.saturating_mul(1_000_000)),
            other => other,
        };
        for (limit, amount) in [
            (Limit::Contexts, self.max_contexts),
            (Limit::Agents, self.max_agents),
            (Limit::Topics, self.max_topics),
            (Limit::Storage, self.storage_limit_mb.map(megabytes)),
            (Limit::Value, self.max_value_bytes),
            (Limit::History, self.max_history_bytes),
            (Limit::Operations, self.max_operations_per_second),
            (Limit::InFlight, self.max_in_flight),
            (Limit::Sessions, self.max_sessions),
        ] {
            limits = match amount {
                None => limits,
                Some(Amount::Most(most)) => limits.with(limit, Some(most)),
                Some(Amount::Unlimited) => limits.with(limit, Some(u64::MAX)),
                Some(Amount::Default) => limits.with(limit, None),
            };
        }
        limits
    }
}

#[derive(Args)]
pub(crate) struct Set {
    /// The user's id
    pub(crate) user: String,
    #[command(flatten)]
    limits: Limits,
    /// The plan, one of the settings' `[plans.NAME]`
    #[arg(long, conflicts_with = "no_plan")]
    plan: Option<String>,
    /// No plan
    #[arg(long)]
    no_plan: bool,
    /// Forgets what was set for this user before
    #[arg(long)]
    clear: bool,
}

/// Sets what is named and shows what holds then.
pub(crate) async fn set(set: Set, users: &UserManager) -> Result {
    let user = set.user.as_str();
    let before = users.limits(user).await?.given;
    let mut given = if set.clear { UserLimits::new() } else { before.clone() };
    if set.no_plan {
        given.plan = None;
    }
    if let Some(plan) = set.plan {
        given = given.plan(plan)?;
    }
    given.own = set.limits.over(given.own);
    if given != before {
        users.set_limits(user, given).await?;
    }
    show(user, users).await
}

/// What a user uses and may use.
pub(crate) async fn show(user: &str, users: &UserManager) -> Result {
    let report = users.limits(user).await?;
    let tag = users.tag(user)?.to_string();
    let plan = report.given.plan.as_ref().map(|plan| plan.as_str().to_owned());
    let number =
        |number: Option<u64>, none: &str| number.map_or_else(|| none.to_owned(), |number| number.to_string());
    let mut lines = vec![format!("user       {user}"), format!("file       {tag}.db")];
    lines.push(match &plan {
        None => "plan       none".to_owned(),
        Some(plan) if report.plan_is_known => format!("plan       {plan}"),
        Some(plan) => format!("plan       {plan}, which the settings do not name: nothing can be added"),
    });
    lines.push(format!("{:12}{:>16}{:>16}{:>16}  {}", "limit", "used", "most", "remaining", "unit"));
    lines.extend(report.limits.iter().map(|one| {
        let LimitUsage { limit, used, most, .. } = one;
        let (used, most) = (number(*used, "-"), number(*most, "unlimited"));
        let remaining = number(one.remaining(), "-");
        format!("{:12}{used:>16}{most:>16}{remaining:>16}  {}", limit.name(), limit.unit())
    }));
    Ok(Answer {
        lines,
        value: json!({ "user": user, "tag": tag, "plan": plan,
        "plan_is_known": report.plan_is_known, "own": own(&report.given), "limits": rows(&report) }),
    })
}

/// What was set for the user alone; `null` stands for no limit.
fn own(given: &UserLimits) -> Value {
    let said = Limit::ALL.into_iter().filter_map(|limit| Some((limit, given.own.of(limit)?)));
    said.map(|(limit, most)| (limit.name().to_owned(), json!(Some(most).filter(|most| *most != u64::MAX))))
        .collect()
}

fn rows(report: &UsageReport) -> Value {
    let row = |one: &LimitUsage| {
        let value = json!({ "used": one.used, "most": one.most, "remaining": one.remaining(), "unit": one.limit.unit() });
        (one.limit.name().to_owned(), value)
    };
    report.limits.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_name_limits() {
        let text =
            "max-contexts = 5\nstorage-limit-mb = 2\nmax-agents = \"unlimited\"\nmax-topics = \"default\"";
        let limits: Limits = toml::from_str(text).unwrap();
        let before = ResourceLimits::new().max_topics(9).max_sessions(3);
        let expected =
            ResourceLimits::new().max_contexts(5).storage_limit_mb(2).max_agents(u64::MAX).max_sessions(3);
        assert_eq!(limits.over(before), expected);
        for wrong in ["max-contexts = -1", "max-contexts = \"5\"", "max-context = 5", "max-agents = \"none\""]
        {
            assert!(toml::from_str::<Limits>(wrong).is_err(), "{wrong}");
        }
    }
}
