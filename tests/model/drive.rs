//! One operation of one actor: asked of Syntha and of the model.

use std::fmt::Display;
use std::time::Duration;

use serde_json::{Value, json};
use syntha::{
    Agent, AgentName, Entry, Expected as Wanted, Filter, HistoryMessage, Mesh, MeshError, Message,
    MessagePage, MessageRole, Subscriptions, ThreadInfo, Topic, TopicInfo, Version, WatchConfig,
};

use crate::op::{AGENTS, Act, Expect, HOST, KEYS, Line, List, Mask, PushOp, THREADS, TOPICS, names};
use crate::reference::{Answer, Expected, Name, Push, Reference};
use crate::reference_history::{ROLES, agents_of, content, message_id};
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
                let actor = Actor { mesh: &mesh, agent: &agent, name, by, now };
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

/// Who asks.
struct Actor<'a> {
    mesh: &'a Mesh,
    agent: &'a Agent,
    name: Name,
    /// `None` for the host.
    by: Option<Name>,
    now: u64,
}

impl Actor<'_> {
    fn asks_the_model(&self, model: &mut Reference, act: &Act) -> Answer {
        let (by, name, now) = (self.by, self.name, self.now);
        Ok(match act {
            Act::Get(key) => {
                let found = model.seen(by, KEYS[*key], now).map(|thing| thing.describe(KEYS[*key]));
                if by.is_some() && found.is_some() {
                    model.note_read(now, by, "Read", vec![KEYS[*key]]);
                }
                found.unwrap_or_default()
            }
            Act::GetMany(keys) => {
                let keys = keys.iter().map(|key| KEYS[*key]);
                let keys: Vec<_> = keys.filter(|key| model.seen(Some(name), key, now).is_some()).collect();
                model.note_read(now, Some(name), "Read", keys.clone());
                model.describe(&keys)
            }
            Act::All(list) => {
                let keys = model.list(Some(name), list, now);
                model.note_read(now, Some(name), "Read", keys.clone());
                model.describe(&keys)
            }
            Act::Keys(list) => format!("{:?}", model.list(by, list, now)),
            Act::Look => look_at(model, by, name, now),
            Act::Clear => model.clear(now).to_string(),
            Act::Sweep => format!("{} false", model.sweep(now)),
            Act::Register(agent) => model.register(AGENTS[*agent], now).to_string(),
            Act::Unregister(agent) => model.unregister(AGENTS[*agent], now).to_string(),
            Act::Subscribe(topics) => return model.subscribe(name, names(&TOPICS, *topics), false, now),
            Act::Unsubscribe(topics) => return model.unsubscribe(name, names(&TOPICS, *topics), now),
            Act::RegisterTopics(agent, topics) => {
                return model.subscribe(AGENTS[*agent], names(&TOPICS, *topics), true, now);
            }
            Act::Post(agent, topics) => {
                return model.permit(AGENTS[*agent], now, |bearer| bearer.post = topics_from(*topics));
            }
            Act::Read(agent, topics) => {
                return model.permit(AGENTS[*agent], now, |bearer| bearer.read = topics_from(*topics));
            }
            Act::DeleteTopic(topic) => return model.delete_topic(TOPICS[*topic], now),
            Act::Create(thread, agents) => {
                return model.create(by, THREADS[*thread], agents_of(*agents), now);
            }
            Act::Page { thread, way, seq, count } => {
                return model.page(by, THREADS[*thread], *way, *seq, *count, now);
            }
            Act::Redact(thread, seq) => model.redact(THREADS[*thread], *seq, now).to_string(),
            Act::DeleteThread(thread) => model.delete_thread(THREADS[*thread], now).to_string(),
            Act::Threads(after, limit) => {
                let after = after.map(|after| THREADS[after]);
                return model.threads(by, after, *limit);
            }
            _ => String::new(),
        })
    }

    async fn asks(&self, act: &Act) -> Answer {
        let (mesh, agent, host) = (self.mesh, self.agent, self.by.is_none());
        match act {
            Act::Get(key) if host => kinds(
                mesh.value(KEYS[*key])
                    .await
                    .map(|entry| entry.map(|entry| shown(&entry)).unwrap_or_default()),
            ),
            Act::Get(key) => kinds(
                agent
                    .entry(KEYS[*key])
                    .await
                    .map(|entry| entry.map(|entry| shown(&entry)).unwrap_or_default()),
            ),
            Act::GetMany(keys) => {
                let keys: Vec<_> = keys.iter().map(|key| KEYS[*key]).collect();
                kinds(agent.get_many(&keys).await.map(|all| all.iter().map(|entry| shown(entry)).collect()))
            }
            Act::All(list) => kinds(
                agent.all(&filter(list)).await.map(|all| all.iter().map(|entry| shown(entry)).collect()),
            ),
            Act::Keys(list) if host => {
                let keys = mesh.entries(&filter(list)).await;
                kinds(
                    keys.map(|all| format!("{:?}", all.iter().map(|entry| entry.key()).collect::<Vec<_>>())),
                )
            }
            Act::Keys(list) => kinds(agent.keys(&filter(list)).await.map(|keys| format!("{keys:?}"))),
            Act::Look => kinds(self.looks().await),
            Act::Clear => text(mesh.clear().await),
            Act::Sweep => kinds(mesh.sweep().await.map(|done| format!("{} {}", done.deleted, done.paused))),
            Act::Register(agent) => text(mesh.register_agent(AGENTS[*agent]).await),
            Act::Unregister(agent) => text(mesh.unregister_agent(AGENTS[*agent]).await),
            Act::Subscribe(topics) => {
                kinds(agent.subscribe(names(&TOPICS, *topics)).await.map(|done| subscribed(&done)))
            }
            Act::Unsubscribe(topics) => {
                kinds(agent.unsubscribe(names(&TOPICS, *topics)).await.map(|done| subscribed(&done)))
            }
            Act::RegisterTopics(agent, topics) => {
                let done = mesh.register_agent_topics(AGENTS[*agent], names(&TOPICS, *topics)).await;
                kinds(done.map(|done| subscribed(&done)))
            }
            Act::Post(agent, topics) => {
                let done = mesh.set_post_permissions(AGENTS[*agent], permitted(*topics)).await;
                kinds(done.map(|()| "permitted".to_owned()))
            }
            Act::Read(agent, topics) => {
                let done = mesh.set_read_permissions(AGENTS[*agent], permitted(*topics)).await;
                kinds(done.map(|()| "permitted".to_owned()))
            }
            Act::DeleteTopic(topic) => {
                let done = if host {
                    mesh.delete_topic(TOPICS[*topic]).await
                } else {
                    agent.delete_topic(TOPICS[*topic]).await
                };
                kinds(done.map(|done| {
                    format!("{} {} {}", done.entries_deleted, done.entries_kept, done.subscribers)
                }))
            }
            Act::Create(thread, agents) => {
                let at = self.thread(*thread);
                text(match agents_of(*agents) {
                    None => at.create().await,
                    Some(agents) => at.create_for(agents).await,
                })
            }
            Act::Page { thread, way, seq, count } => {
                let at = self.thread(*thread);
                if *way == 3 {
                    let one = at.message(*seq).await;
                    return kinds(one.map(|one| one.map(|one| said(&one)).unwrap_or_default()));
                }
                let page: Result<MessagePage, _> = match way {
                    0 => at.last(*count).await,
                    1 => at.before(*seq, *count).await,
                    _ => at.after(*seq, *count).await,
                };
                kinds(
                    page.map(|page| {
                        page.messages.iter().map(said).collect::<String>() + &page.more.to_string()
                    }),
                )
            }
            Act::Redact(thread, seq) => text(mesh.redact_message(THREADS[*thread], *seq).await),
            Act::DeleteThread(thread) => text(mesh.delete_thread(THREADS[*thread]).await),
            Act::Threads(after, limit) => {
                let after = after.map(|after| THREADS[after]);
                let found =
                    if host { mesh.threads(after, *limit).await } else { agent.threads(after, *limit).await };
                kinds(found.map(|found| found.iter().map(listed).collect()))
            }
            _ => Ok(String::new()),
        }
    }

    fn thread(&self, thread: usize) -> syntha::Thread {
        let at = THREADS[thread];
        if self.by.is_none() { self.mesh.thread(at) } else { self.agent.thread(at) }.unwrap()
    }

    /// The small lists, in one.
    async fn looks(&self) -> Result<String, MeshError> {
        let (mesh, agent) = (self.mesh, self.agent);
        let stats = mesh.stats().await?;
        let mut text = format!(
            "{} {} {} {} {} {} {} {} {}\n",
            stats.entries,
            stats.active,
            stats.expired,
            stats.global,
            stats.private,
            stats.topics,
            stats.agents,
            stats.agents_with_topics,
            stats.bytes
        );
        text += &format!("{}\n", mesh.size().await?);
        let topics = if self.by.is_none() { mesh.topics().await? } else { agent.discover().await? };
        text += &format!(
            "{:?}\n",
            topics
                .iter()
                .map(|TopicInfo { topic, subscribers, .. }| (topic, subscribers))
                .collect::<Vec<_>>()
        );
        text += &format!("{:?}\n", mesh.agents().await?);
        text += &format!("{:?}\n", mesh.subscribers("red").await?);
        text += &format!("{:?}\n", mesh.post_permissions(self.name).await?);
        text += &format!("{:?}\n", agent.topics().await?);
        text += &format!("{:?}\n", agent.keys_by_topic().await?);
        for thread in 0..THREADS.len() {
            text += &self.thread(thread).info().await?.map(|info| listed(&info)).unwrap_or_default();
        }
        Ok(text)
    }
}

fn look_at(model: &Reference, by: Option<Name>, name: Name, now: u64) -> String {
    let live = model.entries.values().filter(|thing| thing.lives(now)).count();
    let mut text = format!("{}\n{live}\n{}\n", model.stats(now), model.topics(by, now));
    text += &format!("{:?}\n", model.agents.keys().collect::<Vec<_>>());
    let hears = |name: &&Name| model.agents[*name].topics.contains("red");
    text += &format!("{:?}\n", model.agents.keys().filter(hears).collect::<Vec<_>>());
    text += &format!("{:?}\n", model.agents.get(name).and_then(|bearer| bearer.post.clone()));
    text += &format!("{}\n", topics_of(model, name));
    let everything = List { prefix: "", topic: None, after: None, limit: None };
    let keys = model.list(Some(name), &everything, now).into_iter().map(|key| {
        let may = |topic: &&Name| model.agents.get(name).is_none_or(|bearer| bearer.may_read(topic));
        (key, model.entries[key].topics.iter().filter(may).copied().collect::<Vec<_>>())
    });
    text += &format!("{:?}\n", keys.collect::<Vec<_>>());
    text + &THREADS.into_iter().map(|thread| model.info(by, thread)).collect::<String>()
}

fn topics_of(model: &Reference, name: Name) -> String {
    format!(
        "{:?}",
        model.agents.get(name).map(|bearer| bearer.topics.iter().collect::<Vec<_>>()).unwrap_or_default()
    )
}

fn topics_from(topics: Option<Mask>) -> Option<Vec<Name>> {
    topics.map(|topics| names(&TOPICS, topics))
}

fn permitted(topics: Option<Mask>) -> Option<Vec<Topic>> {
    let parse = |names: Vec<Name>| names.into_iter().map(|name| Topic::try_from(name).unwrap()).collect();
    topics_from(topics).map(parse)
}

fn value_of(push: &Push) -> Value {
    serde_json::from_str(&push.value).unwrap()
}

fn describe(mut described: syntha::Push, push: &Push) -> syntha::Push {
    let agents = push.agents.iter().map(|name| AgentName::try_from(*name).unwrap());
    described = described.agents(agents).topics(push.topics.iter().copied());
    if push.restricted {
        described = described.restricted();
    }
    if let Some(ttl) = push.ttl {
        described = described.ttl(Duration::from_millis(ttl));
    }
    if let Some(expected) = wanted(push.expect) {
        described = described.if_version(expected);
    }
    match push.id {
        Some(id) => described.operation(format!("operation-{id}")),
        None => described,
    }
}

const fn wanted(expect: Expected) -> Option<Wanted> {
    match expect {
        Expected::Anything => None,
        Expected::Absent => Some(Wanted::Absent),
        Expected::Version(version) => Some(Wanted::Version(Version(version))),
    }
}

fn filter(list: &List) -> Filter {
    let mut filter = Filter::new().prefix(list.prefix);
    if let Some(topic) = list.topic {
        filter = filter.topic(TOPICS[topic]);
    }
    if let Some(after) = list.after {
        filter = filter.after(KEYS[after]);
    }
    match list.limit {
        Some(limit) => filter.limit(limit),
        None => filter,
    }
}

fn message(user: usize, line: &Line) -> Message {
    let role = MessageRole::from_name(ROLES[usize::from(line.role)]).unwrap();
    let mut message = Message::new(role, content(user, line));
    if let Some(id) = line.id {
        message = message.id(message_id(id));
    }
    if line.meta { message.metadata("n", 1) } else { message }
}

fn shown(entry: &Entry) -> String {
    let audience = entry.audience();
    format!(
        "{}={} v{} {}-{} until {:?} by {:?} for {} {:?} {:?}\n",
        entry.key(),
        entry.json(),
        entry.version().0,
        entry.created().0,
        entry.updated().0,
        entry.expires().map(|at| at.0),
        entry.author(),
        audience.everyone,
        audience.agents,
        audience.topics
    )
}

fn said(message: &HistoryMessage) -> String {
    let metadata = serde_json::to_string(message.metadata()).unwrap();
    let metadata = if metadata == "{}" { String::new() } else { format!(",\"metadata\":{metadata}") };
    format!(
        "{} {} by {:?} at {} id {:?} {{\"content\":{}{metadata}}}\n",
        message.seq(),
        message.role().name(),
        message.agent(),
        message.at().0,
        message.id(),
        message.content_json()
    )
}

fn listed(info: &ThreadInfo) -> String {
    format!(
        "{} {} {} last {} {}-{} for {:?}\n",
        info.thread, info.messages, info.bytes, info.last, info.created.0, info.updated.0, info.agents
    )
}

fn subscribed(done: &Subscriptions) -> String {
    format!("{:?} {:?} {:?}", done.changed, done.unchanged, done.topics)
}

fn text(result: Result<impl Display, MeshError>) -> Answer {
    kinds(result.map(|value| value.to_string()))
}

fn kinds(result: Result<String, MeshError>) -> Answer {
    result.map_err(|error| error.kind())
}
