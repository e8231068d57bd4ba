//! One operation of one actor: asked of Syntha and of the model.

use serde_json::json;
use syntha::{Agent, Mesh, Topic, WatchConfig};

use crate::answer::{describe, kinds, message, subscribed, text, topics_of, value_of, wanted};
use crate::ask::Actor;
use crate::op::{AGENTS, Act, Expect, HOST, KEYS, PushOp, THREADS, TOPICS, names};
use crate::reference::{Answer, Expected, Name, Push, Reference};
use crate::watching::Watching;
use crate::world::{Found, Kept, World, same};

impl World {
    /// Does it, and compares the answers.
    pub async fn act(&mut self, user: usize, actor: usize, act: &Act) -> Found {
        let now = self.now(user);
        let mesh = self.mesh(user).await?;
        // An agent's handle binds to what the mesh knows, and this one may be behind the other.
        mesh.usage().await.map_err(|error| format!("no usage: {error:?}"))?;
        let name = AGENTS[actor % AGENTS.len()];
        let by = (actor != HOST).then_some(name);
        let agent = mesh.agent(name).map_err(|error| format!("no agent: {error:?}"))?;
        let (got, expected) = match act {
            Act::Push(op) => {
                let push = self.push_of(user, by, op);
                if push.id.is_some() {
                    self.seats[user].again = Some(push.clone());
                }
                return self.push(user, &mesh, &agent, &push).await;
            }
            Act::Again => {
                let Some(push) = self.seats[user].again.clone() else { return Ok(()) };
                let agent = mesh.agent(push.by.unwrap_or("nobody")).unwrap();
                return self.push(user, &mesh, &agent, &push).await;
            }
            Act::Log(before, limit) => return self.log_page(user, &mesh, *before, *limit).await,
            Act::Watch { changes, lazy, prefix, topic } => {
                let mut config = WatchConfig::new().changes(*changes);
                if *prefix {
                    config = config.prefix("shared/");
                }
                if let Some(topic) = topic {
                    config = config.topic(&Topic::try_from(TOPICS[*topic]).unwrap());
                }
                let watch = if by.is_some() { agent.watch(config).await } else { mesh.watch(config).await };
                let watch = watch.map_err(|error| format!("no watch: {error:?}"))?;
                let mut watching = Watching::new(watch, mesh, by, *lazy);
                (watching.prefix, watching.topic) = (*prefix, *topic);
                watching.life = by.and_then(|name| self.seats[user].model.life(name));
                self.seats[user].watches[usize::from(*lazy)] = Some(watching);
                return Ok(());
            }
            Act::Keep => {
                let life = self.seats[user].model.life(name);
                self.seats[user].kept = Some(Kept { agent, mesh, life });
                return Ok(());
            }
            Act::Kept(writes) => return self.kept(user, *writes).await,
            Act::Batch(ops) => {
                let changes: Vec<_> = ops
                    .iter()
                    .map(|(op, removes)| (Push { id: None, ..self.push_of(user, by, op) }, *removes))
                    .collect();
                let mut batch = if by.is_some() { agent.batch() } else { mesh.batch() };
                for (push, removes) in &changes {
                    batch = if *removes {
                        batch.remove(push.key)
                    } else {
                        batch.push_with(push.key, value_of(push), |described| describe(described, push))
                    };
                }
                let got = batch.commit().await.map(|()| "committed".to_owned());
                (kinds(got), self.whole_or_not(user, |model| model.batch(&changes, now)))
            }
            Act::Append(thread, lines) => {
                let thread = THREADS[*thread];
                let at = if by.is_some() { agent.thread(thread) } else { mesh.thread(thread) }.unwrap();
                let got = at.append_all(lines.iter().map(|line| message(user, line))).await;
                let got = got.map(|all| {
                    all.iter().map(|one| format!("{} {} ", one.seq, one.duplicate)).collect::<String>()
                });
                let expected = self.whole_or_not(user, |model| model.append(user, by, thread, lines, now));
                (kinds(got), expected)
            }
            Act::Remove(key, expect) => {
                let key = KEYS[*key];
                let expect = by.map_or(Expected::Anything, |_| self.expected(user, key, *expect));
                let got = match by {
                    Some(_) => agent.remove(key, wanted(expect)).await,
                    None => mesh.remove(key).await,
                };
                let model = &mut self.seats[user].model;
                (text(got), model.remove(by, key, expect, now).map(|removed| removed.to_string()))
            }
            _ => {
                let actor = Actor { mesh: &mesh, agent: &agent, name, by, now, sealed: self.is_sealed() };
                let expected = self.whole_or_not(user, |model| actor.asks_the_model(model, act));
                (actor.asks(act).await, expected)
            }
        };
        same("an answer", &got, &expected)
    }

    /// A change of the model that an error leaves undone.
    fn whole_or_not(&mut self, user: usize, change: impl FnOnce(&mut Reference) -> Answer) -> Answer {
        let model = &mut self.seats[user].model;
        let before = model.clone();
        change(model).inspect_err(|_| *model = before)
    }

    fn expected(&self, user: usize, key: Name, expect: Expect) -> Expected {
        let current = self.seats[user].model.entries.get(key).map_or(7, |thing| thing.version);
        match expect {
            Expect::Anything => Expected::Anything,
            Expect::Absent => Expected::Absent,
            Expect::Current => Expected::Version(current),
            Expect::Wrong => Expected::Version(current + 1),
        }
    }

    fn push_of(&self, user: usize, by: Option<Name>, op: &PushOp) -> Push {
        let key = KEYS[op.key];
        Push {
            by,
            key,
            value: json!({ "of": user, "pad": "x".repeat(usize::from(op.size)) }).to_string(),
            restricted: op.restricted,
            agents: names(&AGENTS, op.agents),
            topics: names(&TOPICS, op.topics),
            ttl: op.ttl,
            expect: self.expected(user, key, op.expect),
            id: op.id,
        }
    }

    async fn push(&mut self, user: usize, mesh: &Mesh, agent: &Agent, push: &Push) -> Found {
        let described = if push.by.is_some() {
            agent.push(push.key, value_of(push))
        } else {
            mesh.push(push.key, value_of(push))
        };
        let got =
            describe(described, push).await.map(|pushed| pushed.version.0).map_err(|error| error.kind());
        let now = self.now(user);
        let seat = &mut self.seats[user];
        let before = seat.model.clone();
        match (got, seat.model.push(push, now)) {
            (Ok(version), Ok(None)) => {
                if version <= seat.newest {
                    return Err("a version was used again".to_owned());
                }
                seat.model.pushed(push, version);
                Ok(())
            }
            (got, expected) => {
                seat.model = before;
                let expected = expected.map(|version| version.unwrap_or_default());
                same("a push", &got, &expected)
            }
        }
    }

    async fn kept(&mut self, user: usize, writes: bool) -> Found {
        let now = self.now(user);
        let Some(Kept { agent, mesh, life }) = self.seats[user].kept.take() else { return Ok(()) };
        mesh.usage().await.map_err(|error| format!("no usage: {error:?}"))?;
        let name = AGENTS.into_iter().find(|name| *name == agent.name()).unwrap();
        let bearer = self.seats[user].model.life(name);
        let over = life.is_some() && life != bearer;
        let expected = self.whole_or_not(user, |model| match writes {
            _ if over => Err(syntha::MeshErrorKind::Gone),
            true => model.subscribe(name, vec!["red"], false, now),
            false => Ok(topics_of(model, name)),
        });
        let got = if writes {
            kinds(agent.subscribe(["red"]).await.map(|done| subscribed(&done)))
        } else {
            kinds(agent.topics().await.map(|topics| format!("{topics:?}")))
        };
        let life = life.or_else(|| self.seats[user].model.life(name));
        self.seats[user].kept = Some(Kept { agent, mesh, life });
        same("a kept handle", &got, &expected)
    }

    /// The whole log is the model's.
    pub async fn log(&mut self, user: usize) -> Found {
        let mesh = self.mesh(user).await?;
        self.log_page(user, &mesh, None, 9).await
    }

    async fn log_page(&mut self, user: usize, mesh: &Mesh, before: Option<u64>, limit: usize) -> Found {
        let mut all = Vec::new();
        loop {
            let from = all.last().map(|one: &syntha::Interaction| one.seq);
            let page = mesh.interactions(from, 400).await.map_err(|error| format!("no log: {error:?}"))?;
            if page.is_empty() {
                break;
            }
            all.extend(page);
        }
        let page = kinds(mesh.interactions(before, limit).await.map(|page| format!("{page:?}")));
        let within = all.iter().filter(|one| before.is_none_or(|before| one.seq < before));
        let within: Vec<_> = within.take(limit).collect();
        let expected =
            if limit == 0 { Err(syntha::MeshErrorKind::Invalid) } else { Ok(format!("{within:?}")) };
        same("a page of the log", &page, &expected)?;
        all.reverse();
        let numbers: Vec<_> = all.iter().map(|one| one.seq).collect();
        same("the log's numbers", &numbers, &(1..=all.len() as u64).collect())?;
        let model = &self.seats[user].model;
        let text =
            |at: u64, by: Option<&str>, action: String, on: String| format!("{at} {by:?} {action} {on}");
        for reads in [false, true] {
            let got: Vec<_> = all
                .iter()
                .filter(|one| format!("{:?}", one.action).starts_with("Read") == reads)
                .map(|one| {
                    let (action, on) = (format!("{:?}", one.action), format!("{:?}", one.on));
                    text(one.at.0, one.agent.as_deref(), action, on)
                })
                .collect();
            let logged = if reads { &model.reads } else { &model.writes };
            let expected: Vec<_> = logged
                .iter()
                .filter(|_| !reads || self.logs_reads())
                .map(|one| text(one.at, one.by, one.action.to_owned(), format!("{:?}", one.on)))
                .collect();
            let first = got.iter().zip(&expected).position(|(got, expected)| got != expected);
            let first = first.unwrap_or_else(|| got.len().min(expected.len()));
            same("the log", &got.get(first), &expected.get(first))?;
        }
        Ok(())
    }
}
