use std::fmt;
use std::str::FromStr;

use crate::bench::figures::Kind;

/// What share of the calls is what, as weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mix([u32; Kind::ALL.len()]);

impl Mix {
    /// One of the kinds, by a number that is drawn.
    pub(crate) fn draw(self, random: &mut fastrand::Rng) -> Kind {
        let mut at = random.u32(..self.0.iter().sum::<u32>());
        for (kind, weight) in Kind::ALL.into_iter().zip(self.0) {
            match at.checked_sub(weight) {
                Some(rest) => at = rest,
                None => return kind,
            }
        }
        Kind::Get
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut weights = [0; Kind::ALL.len()];
        for part in text.split(',') {
            let wrong = || format!("{part} is no weight such as `get=70`, of get, push, list or remove");
            let (name, weight) = part.split_once('=').ok_or_else(wrong)?;
            let place = Kind::ALL.iter().position(|kind| kind.name() == name).ok_or_else(wrong)?;
            let weight: u32 = weight.parse().map_err(|_| wrong())?;
            if weight > 1_000_000 {
                return Err("a weight is at most 1000000".into());
            }
            if let Some(known) = weights.get_mut(place) {
                *known = weight;
            }
        }
        if weights.iter().all(|weight| *weight == 0) {
            return Err("all weights are 0: nothing would be done".into());
        }
        Ok(Self(weights))
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (kind, weight) in Kind::ALL.into_iter().zip(self.0).filter(|(_, weight)| *weight > 0) {
            write!(f, "{}{}={weight}", if first { "" } else { "," }, kind.name())?;
            first = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_read_and_drawn() {
        let mix: Mix = "push=1,get=3".parse().unwrap();
        assert_eq!(mix.to_string(), "get=3,push=1");
        let mut random = fastrand::Rng::with_seed(7);
        let drawn: Vec<_> = (0..4_000).map(|_| mix.draw(&mut random)).collect();
        let gets = drawn.iter().filter(|kind| **kind == Kind::Get).count();
        assert!((2_800..3_200).contains(&gets), "{gets}");
        assert!(drawn.iter().all(|kind| matches!(kind, Kind::Get | Kind::Push)));
        for wrong in ["", "get", "get=x", "fly=1", "get=0", "get=1,", "get=-1", "get=9999999"] {
            assert!(wrong.parse::<Mix>().is_err(), "{wrong}");
        }
    }
}
