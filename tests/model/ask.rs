//! Calls that are alike: the same question to Syntha and to the model.

use syntha::{Agent, Mesh, MeshError, MessagePage, Role, ThreadInfo, TopicInfo};
use syntha_mesh::{UndoId, Undoable};

use crate::answer::{
    filter, kinds, listed, permitted, said, shown, subscribed, text, topics_from, topics_of,
};
use crate::op::{AGENTS, Act, KEYS, List, THREADS, TOPICS, names};
use crate::reference::{Answer, Name, Reference};
use crate::reference_history::agents_of;

/// Who asks.
pub struct Actor<'a> {
    pub mesh: &'a Mesh,
    pub agent: &'a Agent,
    pub name: Name,
    /// `None` for the host.
    pub by: Option<Name>,
    pub now: u64,
    /// The store keeps names in an order of its own.
    pub sealed: bool,
}

impl Actor<'_> {
    pub fn asks_the_model(&self, model: &mut Reference, act: &Act) -> Answer {
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
            Act::DeleteTopic(topic) => return model.delete_topic(by, TOPICS[*topic], now),
            Act::Admin(agent, admin) => return model.set_admin(AGENTS[*agent], *admin, now),
            Act::UndoList => model.undo_list(now),
            Act::Undo(which) => return model.undo(*which, now),
            Act::Purge(which) => return model.purge(*which, now),
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

    pub async fn asks(&self, act: &Act) -> Answer {
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
            Act::Admin(agent, admin) => {
                let role = if *admin { Role::Admin } else { Role::Contributor };
                kinds(mesh.set_role(AGENTS[*agent], role).await.map(|()| "permitted".to_owned()))
            }
            Act::UndoList => kinds(self.undo_list().await),
            Act::Undo(which) => match self.chosen(*which).await {
                Ok(None) => Ok("nothing".to_owned()),
                Ok(Some(id)) => kinds(mesh.undo(id).await.map(|done| {
                    let (entries, expired, left) = (done.entries, done.expired, done.left);
                    format!("{entries} {expired} {} {} {left}", done.rejoined, done.subscribers)
                })),
                Err(error) => Err(error.kind()),
            },
            Act::Purge(None) => text(mesh.undo_purge_all().await),
            Act::Purge(Some(which)) => match self.chosen(*which).await {
                Ok(None) => Ok("nothing".to_owned()),
                Ok(Some(id)) => text(mesh.undo_purge(id).await.map(u64::from)),
                Err(error) => Err(error.kind()),
            },
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
                kinds(self.threads(after, *limit).await.map(|found| found.iter().map(listed).collect()))
            }
            _ => Ok(String::new()),
        }
    }

    /// A page of threads in the order of their names. A sealed store has an order of its own, so there all pages are read and put in order.
    async fn threads(&self, after: Option<&str>, limit: usize) -> Result<Vec<ThreadInfo>, MeshError> {
        let page = async |after: Option<&str>| match self.by {
            None => self.mesh.threads(after, limit).await,
            Some(_) => self.agent.threads(after, limit).await,
        };
        if !self.sealed || limit == 0 {
            return page(after).await;
        }
        let mut all: Vec<ThreadInfo> = Vec::new();
        loop {
            let last = all.last().map(|info| info.thread.to_string());
            let mut next = page(last.as_deref()).await?;
            if next.is_empty() {
                break;
            }
            all.append(&mut next);
        }
        all.sort_by(|one, other| one.thread.cmp(&other.thread));
        all.retain(|info| after.is_none_or(|after| *info.thread > *after));
        all.truncate(limit);
        Ok(all)
    }

    fn thread(&self, thread: usize) -> syntha::Thread {
        let at = THREADS[thread];
        if self.by.is_none() { self.mesh.thread(at) } else { self.agent.thread(at) }.unwrap()
    }

    async fn chosen(&self, which: usize) -> Result<Option<UndoId>, MeshError> {
        let acts = self.mesh.undo_list(None, 1_000).await?.acts;
        Ok(acts.get(which % acts.len().max(1)).map(|act| act.id))
    }

    async fn undo_list(&self) -> Result<String, MeshError> {
        let acts = self.mesh.undo_list(None, 1_000).await?.acts;
        let describe = |act: &Undoable| {
            let (at, until, parted) = (act.at.0, act.until.0, act.parted);
            let (did, on, by, count) = (act.did, &act.on, &act.by, act.entries);
            format!("{did:?} {on} by {by} {at}-{until}: {count} {} {parted} {}\n", act.bytes, act.subscribers)
        };
        Ok(acts.iter().map(describe).collect())
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
