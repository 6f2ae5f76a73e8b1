// The page's one module: it refines pages that the server has rendered whole.
const store = document.body.dataset.store;
const $ = (selector, within = document) => within.querySelector(selector);
const encoded = (uid) => uid.split("/").map(encodeURIComponent).join("/");

function address(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries({ ...parameters, store })) {
    if (value !== undefined && value !== null && value !== "") query.set(name, value);
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function clock(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const whole = Math.floor(seconds / 60), rest = seconds - 60 * whole;
  const tail = rest % 1 >= 0.05 ? rest.toFixed(1).padStart(4, "0") : String(Math.round(rest)).padStart(2, "0");
  return whole >= 60 ? `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}:${tail}` : `${whole}:${tail}`;
}

async function asked(path, options) {
  const answer = await fetch(path, options);
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error || `The server answered ${answer.status}.`);
  return body;
}

// Pictures that are missing say so, whether they failed before or after this script ran.
document.addEventListener("error", (event) => {
  if (event.target.matches?.(".shot img")) event.target.parentElement.classList.add("missing");
}, true);
for (const img of document.querySelectorAll(".shot img")) {
  if (img.complete && !img.naturalWidth && img.loading !== "lazy") img.parentElement.classList.add("missing");
}

document.addEventListener("keydown", (event) => {
  const field = $("#q");
  if (event.key === "/" && field && !/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) {
    event.preventDefault();
    field.focus();
    field.select();
  }
});

function searchPage() {
  const form = $("form.search"), field = $("#q"), grid = $("#hits"), status = $("#status"), message = $("#message");
  let turn = 0, timer = 0, shown = new URLSearchParams(location.search).get("q") || "";

  function say(text) { status.textContent = text; status.hidden = !text; }

  function card(hit, q) {
    const to = address(`/item/${encoded(hit.uid)}`, { t: hit.start_s, q, source: hit.source });
    const at = hit.start_s ?? 0;
    const img = element("img", {
      src: address(`/api/thumbnail/${encoded(hit.uid)}`, { at, width: 320, source: hit.source }),
      alt: "", loading: "lazy", width: 320, height: 240,
    });
    const labels = (hit.labels || []).slice(0, 3)
      .map((label) => label.score === null ? label.name : `${label.name} ${Math.round(100 * label.score)}%`).join(", ");
    const moment = hit.start_s === null ? hit.uid : `${hit.uid}@${Number(hit.start_s.toPrecision(9))}s`;
    const about = element("div", { class: "about" }, element("a", { class: "name", href: to }, hit.uid));
    if (hit.text) about.append(element("span", { class: "small" }, hit.text));
    if (labels) about.append(element("span", { class: "small quiet" }, labels));
    about.append(element("span", { class: "foot" }, element("span", {}, hit.score.toFixed(3)),
      element("a", { href: address("/", { like: moment }), "aria-label": `More like ${hit.uid}` }, "More like this")));
    return element("li", { class: "card", "data-uid": hit.uid, "data-source": hit.source },
      element("a", { class: "shot", href: to, tabindex: "-1", "aria-hidden": "true" }, img,
        element("span", { class: "badge" }, clock(hit.start_s)), element("span", { class: "scrub" })), about);
  }

  function show(found, q) {
    grid.replaceChildren(...found.hits.map((hit) => card(hit, q)));
    $("#none")?.remove();
    message.hidden = true;
    const took = found.took_ms === undefined ? "" : ` in ${Math.round(found.took_ms)} ms`;
    $("#took").textContent = `${found.hits.length} hits${took}`;
    say(found.message || (found.hits.length ? "" : "Nothing was found."));
  }

  async function run(ask, q) {
    const mine = ++turn;
    grid.setAttribute("aria-busy", "true");
    try {
      const found = await ask();
      if (mine === turn) show(found, q);
    } catch (error) {
      if (mine !== turn) return;
      say("");
      message.textContent = error.message;
      message.hidden = false;
    } finally {
      if (mine === turn) grid.removeAttribute("aria-busy");
    }
  }

  function parameters() {
    const like = $("#like").hidden ? "" : $("#like b").textContent;
    const rank = $("#rank").value;
    return { q: like ? "" : field.value.trim(), like, index: $("#index")?.value, where: $("#where").value.trim(), rank: rank === "max" ? "" : rank };
  }

  function search(push) {
    const now = parameters();
    if (!now.q && !now.like) return;
    if (push || now.q !== shown) history[push ? "pushState" : "replaceState"](null, "", address("/", now));
    shown = now.q;
    document.title = `${now.q || now.like} · cliploom`;
    run(() => asked(address("/api/search", now)), now.q);
  }

  field.addEventListener("input", () => {
    clearTimeout(timer);
    $("#like").hidden = true;
    timer = setTimeout(() => search(false), 220);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    if (field.value.trim()) $("#like").hidden = true;
    search(true);
  });
  for (const select of document.querySelectorAll("#rank, #index, #where")) select.addEventListener("change", () => search(true));
  addEventListener("popstate", () => location.reload());

  function byFile(file) {
    if (!file) return;
    const body = new FormData();
    body.append("store", store);
    body.append("rank", $("#rank").value);
    body.append("file", file);
    field.value = "";
    $("#like b").textContent = file.name;
    $("#like").hidden = false;
    say(`Looking at ${file.name} …`);
    run(() => asked("/api/search/file", { method: "POST", body }), "");
  }

  const pick = $("#pick"), chosen = $("#file");
  pick.hidden = false;
  pick.addEventListener("click", () => chosen.click());
  chosen.addEventListener("change", () => byFile(chosen.files[0]));
  addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("drop"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("drop"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("drop");
    byFile(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => byFile([...event.clipboardData.files][0]));

  // Hover-scrub: the picture under the pointer's place in time; the item's length is asked for once.
  const lengths = new Map();
  const STEPS = 12;
  grid.addEventListener("pointermove", async (event) => {
    const shot = event.target.closest?.(".shot");
    if (!shot || event.pointerType === "touch" || shot.classList.contains("missing")) return;
    const { uid, source } = shot.parentElement.dataset, key = `${source}\n${uid}`;
    if (!lengths.has(key)) {
      lengths.set(key, asked(address(`/api/items/${encoded(uid)}`, { source })).then((item) => item.facts?.duration_s || 0, () => 0));
    }
    const box = shot.getBoundingClientRect();
    const share = Math.min(0.999, Math.max(0, (event.clientX - box.left) / box.width));
    const length = await lengths.get(key);
    if (!length || !shot.matches(":hover")) return;
    const step = Math.floor(share * STEPS), img = $("img", shot);
    if (shot.dataset.step === String(step)) return;
    shot.dataset.step = step;
    img.dataset.first ||= img.src;
    const at = Math.round(100 * length * (step + 0.5) / STEPS) / 100;
    img.src = address(`/api/thumbnail/${encoded(uid)}`, { at, width: 320, source });
    $(".scrub", shot).style.transform = `scaleX(${(step + 1) / STEPS})`;
    const badge = $(".badge", shot);
    badge.dataset.first ??= badge.textContent;
    badge.textContent = clock(at);
  });
  grid.addEventListener("pointerout", (event) => {
    const shot = event.target.closest?.(".shot");
    if (!shot || shot.contains(event.relatedTarget)) return;
    const img = $("img", shot), badge = $(".badge", shot);
    delete shot.dataset.step;
    if (img.dataset.first) img.src = img.dataset.first;
    if (badge.dataset.first !== undefined) badge.textContent = badge.dataset.first;
    $(".scrub", shot).style.transform = "";
  });
}

function itemPage() {
  const curve = $("svg.curve"), like = $("#like-moment");
  let player = $("#player"), still = $("#still");
  if (!player && !still) return;
  const lines = [...document.querySelectorAll("#narrations li")];

  let moment = Number(player?.dataset.at || 0);

  function moved(at) {
    moment = at;
    if (curve) {
      const x = 800 * Math.min(1, at / Number(curve.dataset.duration));
      $(".now", curve).setAttribute("x1", x);
      $(".now", curve).setAttribute("x2", x);
    }
    like.href = address("/", { like: `${like.dataset.uid}@${Math.round(1000 * at) / 1000}s` });
    let current = null;
    for (const line of lines) {
      const seek = $("[data-seek]", line);
      line.classList.remove("now");
      if (seek && Number(seek.dataset.seek) <= at + 0.01) current = line;
    }
    current?.classList.add("now");
  }

  function picture(at) {
    const to = new URL(player ? player.poster : still.src);
    to.searchParams.set("at", at);
    return to;
  }

  function seek(at) {
    if (player) {
      player.currentTime = at;
      if (!player.readyState) player.poster = picture(at);
      player.play().catch(() => {});
    } else {
      still.src = picture(at);
    }
    const here = new URL(location);
    here.searchParams.set("t", Math.round(1000 * at) / 1000);
    history.replaceState(null, "", here);
    moved(at);
  }

  document.addEventListener("click", (event) => {
    const to = event.target.closest?.("[data-seek]");
    if (!to) return;
    event.preventDefault();
    seek(Number(to.dataset.seek));
  });
  curve?.addEventListener("pointerdown", (event) => {
    const box = curve.getBoundingClientRect();
    seek(Math.max(0, (event.clientX - box.left) / box.width) * Number(curve.dataset.duration));
  });
  // A codec that this browser lacks: a converted copy, or else stills at the same moments.
  const status = $("#playback"), { uid, source } = like.dataset;

  function say(text) { status.textContent = text; status.hidden = !text; }

  function showStills(why) {
    const img = element("img", { id: "still", src: player.poster, alt: player.getAttribute("aria-label") });
    player.replaceWith(img);
    still = img;
    player = null;
    say(why);
  }

  async function convert() {
    try {
      for (;;) {
        const found = await asked(address(`/api/playback/${encoded(uid)}`, { source, convert: true }));
        if (found.how === "stills") return showStills(found.message);
        if (found.state === "ready") break;
        say(found.state === "waiting" ? "Waiting to be converted for browsers …" : `Converting for browsers: ${10 * Math.floor(10 * found.share)} %`);
        await new Promise((resolve) => setTimeout(resolve, 500));
      }
    } catch (error) {
      return showStills(error.message);
    }
    say("This is a copy that was converted for browsers; the download is the file as it is.");
    const wanted = moment, going = !player.paused;
    player.preload = "metadata";
    player.addEventListener("loadedmetadata", () => { player.currentTime = wanted; }, { once: true });
    player.addEventListener("error", () => showStills("This browser does not play the converted copy; stills are shown."), { once: true });
    player.src = address(`/api/converted/${encoded(uid)}`, { source });
    if (going) player.play().catch(() => {});
  }

  if (player?.dataset.converted) convert();
  else player?.addEventListener("error", convert, { once: true });
  if (player) {
    const first = Number(player.dataset.at);
    player.addEventListener("loadedmetadata", (event) => {
      if (Math.abs(event.target.currentTime - first) > 0.05) event.target.currentTime = first;
    }, { once: true });
    if (player.readyState >= 1 && Math.abs(player.currentTime - first) > 0.05) player.currentTime = first;
    player.addEventListener("timeupdate", (event) => { if (event.target.readyState) moved(event.target.currentTime); });
    moved(first);
  }
}

// The newest run, stage by stage; the store's page shows it while it is not published.
function runsPage() {
  let seen = "";

  function stage(each, number) {
    const counts = each.items_planned ? `, ${each.items.toLocaleString("en")} of ${each.items_planned.toLocaleString("en")} items, ${each.parts} of ${each.parts_planned} parts` : "";
    return element("li", { "data-stage": each.name },
      element("label", { for: `stage-${number}` }, element("span", {}, each.name), " ", element("span", { class: "quiet" }, each.state + counts)),
      element("progress", { id: `stage-${number}`, max: each.parts_planned, value: each.parts }));
  }

  async function look() {
    try {
      const { newest } = await asked(address("/api/runs"));
      const live = newest && newest.state !== "published";
      if (document.body.dataset.page === "store") {
        if (seen && seen !== "published" && newest?.state === "published") location.reload();
        $("#run").hidden = !live;
      }
      seen = newest?.state || "";
      $("#run-none").hidden = Boolean(newest);
      $("#run-some").hidden = !newest;
      if (newest) {
        if ($("#run-state").textContent !== newest.state) $("#run-state").textContent = newest.state;
        $("#run-name").textContent = newest.run;
        $("#run-stages").replaceChildren(...newest.stages.map((each, place) => stage(each, place + 1)));
        const work = newest.at_work && newest.state === "running" ? `${newest.at_work} items at work. ` : "";
        const job = newest.cluster ? `Job ${newest.job} on the cluster: ${newest.cluster}. ` : "";
        $("#run-more").textContent = work + job + newest.message;
      }
    } catch (error) {
      $("#run-more").textContent = error.message;
    }
    setTimeout(look, document.hidden ? 15000 : 2500);
  }
  look();
}

function predictPage() {
  const chosen = $("#predict input[type=file]");
  if (!chosen) return;
  addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("drop"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("drop"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("drop");
    if (event.dataTransfer.files.length) chosen.files = event.dataTransfer.files;
  });
}

function predictionPage() {
  const panel = $("#prediction");
  if (panel.dataset.ended) return;
  const events = new EventSource(`/api/predict/${panel.dataset.job}/events`);
  const order = [...document.querySelectorAll(".stages li")].map((each) => each.dataset.stage);
  let playing = Boolean($("#stage video, #stage img"));
  events.onmessage = ({ data }) => {
    const event = JSON.parse(data);
    if (event.error) {
      events.close();
      $("#line").textContent = "";
      $("#error").textContent = event.error;
      $("#error").hidden = false;
    } else if (event.done) {
      events.close();
      location.reload();
    } else {
      const at = order.indexOf(event.stage);
      document.querySelectorAll(".stages li").forEach((each, place) => {
        each.className = place < at ? "past" : place === at ? "at" : "";
      });
      $("#line").textContent = `${event.stage} …${event.text ? ` ${event.text}` : ""}`;
      if (!playing && (event.stage === "extracting" || event.stage === "predicting")) {
        playing = true;
        const video = element("video", { controls: "", playsinline: "", src: `/api/predict/${panel.dataset.job}/media` });
        video.muted = true;
        $("#stage").append(video);
        video.play().catch(() => {});
      }
    }
  };
}

({ search: searchPage, item: itemPage, runs: runsPage, store: runsPage, predict: predictPage, prediction: predictionPage })[document.body.dataset.page]?.();
