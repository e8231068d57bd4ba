//! Whether the time of an answer tells which refusal it is.

#![allow(clippy::print_stdout, reason = "what was measured is shown")]

use std::time::Instant;

use syntha_identity::{Fault, HashingCost, Scopes, SessionRequest, Source};

use crate::bed::{Bed, Check, RIGHT, WRONG, ensure, password, user};

const CLASSES: [(&str, &str); 4] =
    [("wrong", WRONG), ("unknown", RIGHT), ("suspended", RIGHT), ("none", RIGHT)];

/// Welch's t of two samples, and how far apart their means are.
fn welch(a: &[f64], b: &[f64]) -> (f64, f64) {
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
    let (of_a, of_b) = (mean(a), mean(b));
    let part = |of: &[f64], mean: f64| {
        let squares = of.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
        squares / (of.len() - 1) as f64 / of.len() as f64
    };
    ((of_a - of_b) / (part(a, of_a) + part(b, of_b)).sqrt(), (of_a - of_b).abs() / of_b)
}

/// Samples of each class, one after the other in turns.
pub(crate) async fn refusals_take_one_time(fault: Option<Fault>, samples: usize) -> Check {
    let cost = HashingCost::new(7 * 1024, 5, 1).unwrap();
    let bed = Bed::with(1, fault, |config| config.hashing(cost)).await;
    bed.user("wrong").await;
    let suspended = bed.user("suspended").await;
    bed.identity.accounts().suspend(&suspended).await.unwrap();
    bed.identity.accounts().create(&user("none"), Scopes::ALL).await.unwrap();
    let mut times = vec![Vec::new(); CLASSES.len()];
    for n in 0..samples + 5 {
        for ((name, typed), times) in CLASSES.iter().zip(&mut times) {
            let (user, typed) = (user(name), password(typed));
            let source = Source::new(format!("source {n}"));
            let request = SessionRequest::default();
            let start = Instant::now();
            let refused = bed.identity.login(&user, typed, &source, &request).await.is_err();
            let took = start.elapsed().as_secs_f64();
            ensure(refused, "it was let in")?;
            bed.identity.accounts().forgive(&user).await.unwrap();
            // The first ones warm up.
            if n >= 5 {
                times.push(took);
            }
        }
    }
    let mut worst: f64 = 0.0;
    for ((name, _), of) in CLASSES.iter().zip(&times).skip(1) {
        let (t, gap) = welch(of, &times[0]);
        if std::env::var_os("SYNTHA_TIMING").is_some() {
            println!("{name}: t = {t:.2}, gap = {:.3}% of {:.2} ms", gap * 100.0, 1e3 * times[0][0]);
        }
        // Of the logarithms too: a machine that is busy now and then hides a difference from the means.
        let logs = |of: &[f64]| of.iter().map(|time| time.ln()).collect::<Vec<_>>();
        let (log_t, _) = welch(&logs(of), &logs(&times[0]));
        let text = format!("{name} and a wrong password differ: t = {t:.2}, of logarithms {log_t:.2}");
        worst = worst.max(t.abs()).max(log_t.abs());
        ensure(t.abs() < 4.5 && log_t.abs() < 4.5, &text)?;
        ensure(samples < 1_000 || gap < 0.02, &format!("{name} and a wrong password differ by {gap:.4}"))?;
    }
    println!(
        "evidence: {samples} samples each of a wrong password and of the other refusals, |t| at most {worst:.2}"
    );
    Ok(())
}

/// 2,000 samples of each take minutes: `SYNTHA_TIMING=2000`.
#[tokio::test]
async fn no_refusal_is_told_by_its_time() {
    let samples = std::env::var("SYNTHA_TIMING").ok().map_or(40, |text| text.parse().unwrap());
    refusals_take_one_time(None, samples).await.unwrap();
}

#[test]
fn welch_is_the_documented_statistic() {
    // scipy.stats.ttest_ind([1,2,3,4], [2,4,6,8,10], equal_var=False).statistic
    let (t, _) = welch(&[1.0, 2.0, 3.0, 4.0], &[2.0, 4.0, 6.0, 8.0, 10.0]);
    assert!((t - -2.251_436_3).abs() < 1e-6, "{t}");
}
