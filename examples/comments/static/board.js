// All pages work without this script. It shows new comments live, and updates the times.

const list = document.querySelector("#comments[data-events]");
const live = document.querySelector("#live");
const LOST = "Not live, reconnecting …";

function say(text, state) {
  live.textContent = text;
  live.dataset.state = state;
  live.hidden = false;
}

function watch(url) {
  const events = new EventSource(url);
  let watchdog;

  // The server sends this event after it has read the comments, and at regular times.
  events.addEventListener("heartbeat", () => {
    say("Live", "on");
    clearTimeout(watchdog);
    // A lost network or a server that hangs causes no error event.
    watchdog = setTimeout(() => {
      events.close();
      lose(url);
    }, 3000 * list.dataset.heartbeat);
  });

  events.addEventListener("comment", (event) => {
    const template = document.createElement("template");
    // The server has already escaped the users' texts.
    template.innerHTML = JSON.parse(event.data).trim();
    const comment = template.content.firstElementChild;
    list.dataset.seen = event.lastEventId;
    document.querySelector("#count").textContent = event.lastEventId;

    // After a reconnect, the server may send a comment twice.
    if (!document.getElementById(comment.id)) {
      comment.classList.add("new");
      list.prepend(comment);
    }
  });

  events.addEventListener("deleted", () => {
    events.close();
    clearTimeout(watchdog);
    say("This thread was deleted", "off");
    document.querySelectorAll("[data-until-deleted]").forEach((part) => part.remove());
  });

  events.addEventListener("error", () => {
    clearTimeout(watchdog);

    // After an error page, as in an outage, the browser does not reconnect by itself.
    if (events.readyState === EventSource.CLOSED) {
      lose(url);
    } else {
      say(LOST, "off");
    }
  });
}

// Show that the updates are lost, and connect again later.
function lose(url) {
  say(LOST, "off");
  const next = new URL(url, location.href);
  next.searchParams.set("after", list.dataset.seen ?? next.searchParams.get("after"));
  setTimeout(() => watch(next), 3000 + Math.random() * 4000);
}

if (list) {
  watch(list.dataset.events);
  // A page from the browser's back/forward cache may have missed some comments.
  addEventListener("pageshow", (event) => event.persisted && location.reload());
}

// Keep these words the same as in times.py.
const UNITS = [["year", 31536000], ["month", 2592000], ["day", 86400], ["hour", 3600], ["minute", 60]];

function ago(seconds) {
  for (const [unit, size] of UNITS) {
    const count = Math.floor(seconds / size);
    if (count >= 1) return `${count} ${unit}${count > 1 ? "s" : ""} ago`;
  }
  return "just now";
}

setInterval(() => {
  for (const time of document.querySelectorAll("time")) {
    time.textContent = ago((Date.now() - Date.parse(time.dateTime)) / 1000);
  }
}, 30_000);
