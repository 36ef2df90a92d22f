/* The page of a report. Whatever users wrote reaches the document as text nodes and attributes only. */
"use strict";
(() => {
  const one = (id) => document.getElementById(id);
  const data = JSON.parse(one("data").textContent);
  const PAGE = 48; // cards that are added at a time
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

  /** An element with attributes, and children that are elements or text. */
  function make(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return element;
  }

  const words = (name) => name.replaceAll("_", " ");
  function number(value) {
    if (typeof value === "boolean") return value ? "yes" : "no";
    if (typeof value !== "number") return value === null || value === undefined ? "-" : String(value);
    const size = Math.abs(value);
    if (Number.isInteger(value) || size >= 1000) return String(Math.round(value));
    return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.01 ? 2 : 4);
  }
  const bytes = (n) => n < 1e3 ? `${n} B` : n < 1e6 ? `${(n / 1e3).toFixed(0)} kB` : `${(n / 1e6).toFixed(1)} MB`;

  // ---- what is loaded when it is looked at --------------------------------------------------------------------------

  const arrived = new Map();
  const waiting = new Map();
  window.threedistill = {
    put(key, value) { arrived.set(key, value); (waiting.get(key) || (() => {}))(value); },
  };

  /** A script of the page's folder. */
  function script(address) {
    return new Promise((done, failed) => {
      document.head.append(make("script", { src: address, onload: done, onerror: () => {
        failed(new Error(`${address} is not there; keep the folder "report" beside this page`));
      } }));
    });
  }

  /** What the page knows of a run, or its 3D data. */
  async function need(key) {
    if (arrived.has(key)) return arrived.get(key);
    const inside = one(`payload-${key}`);
    if (inside) {
      arrived.set(key, JSON.parse(inside.textContent));
      inside.remove();
      return arrived.get(key);
    }
    const promise = new Promise((done) => waiting.set(key, done));
    await script(`report/${key}.js`);
    return promise;
  }

  const viewers = new Map();
  /** A viewer's script, once. */
  function viewer(name) {
    if (!viewers.has(name)) {
      const inside = one(`viewer-${name}`);
      if (inside) {
        const text = inside.textContent;
        const code = text.startsWith("base64,") ? new TextDecoder().decode(binary(text.slice(7))) : text;
        const element = document.createElement("script");
        element.textContent = code;
        document.head.append(element);
        viewers.set(name, Promise.resolve());
      } else viewers.set(name, script(`report/viewers/${name}.js`));
    }
    return viewers.get(name);
  }

  function binary(base64) {
    const text = atob(base64);
    const found = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) found[i] = text.charCodeAt(i);
    return found;
  }

  const encoded = (path) => path.split("/").map(encodeURIComponent).join("/");
  /** The address of a file of a run. */
  async function file(run, name) {
    const about = one(`payload-${run.key}`) || arrived.has(run.key) ? await need(run.key) : null;
    return (about && about.media && about.media[name]) || `${run.folder}/${encoded(name)}`;
  }

  // ---- filters, order, grid -----------------------------------------------------------------------------------------

  const axes = ["prompt", ...data.axes, "seed", "status"].filter((axis, i, all) => all.indexOf(axis) === i)
    .map((axis) => ({ axis, values: [...new Set(data.runs.map((run) => text(run[axis])))] }))
    .filter(({ values }) => values.length > 1);
  const chosen = new Map();
  let rising = true, shown = [], count = PAGE;

  function text(value) { return value === null || value === undefined ? "" : String(value); }
  const natural = new Intl.Collator(undefined, { numeric: true });

  function setUp() {
    one("title").textContent = data.title;
    const counts = Object.entries(data.summary.statuses).map(([status, n]) => `${n} ${status}`).join(", ");
    const priors = data.summary.prior_versions.join(", ");
    one("counts").textContent = `${data.summary.partial ? "partial: " : ""}${counts}${priors ? `; prior ${priors}` : ""}`;
    one("links").append(...data.links.flatMap((name) => [make("a", { href: name }, name), " "]));
    one("about").textContent = `threedistill ${data.version}. Nothing on this page comes from a network. ` +
      "Keys: / search, arrows between assets, Enter opens one, ← → next, Esc closes.";
    for (const { axis, values } of axes) {
      const options = values.sort(natural.compare).map((value) => make("option", { value }, value || "-"));
      one("axes").append(make("label", {}, words(axis), make("select", {
        "data-axis": axis, onchange: (event) => {
          if (event.target.selectedIndex) chosen.set(axis, event.target.value); else chosen.delete(axis);
          draw();
        } }, make("option", { value: "" }, "all"), options)));
    }
    const orders = ["number", ...axes.map(({ axis }) => axis), ...data.figures];
    one("sort").append(...orders.map((name) => make("option", { value: name },
      name === "number" ? "order of the runs" : words(name))));
    one("sort").addEventListener("change", draw);
    one("search").addEventListener("input", draw);
    one("direction").addEventListener("click", () => {
      rising = !rising;
      one("direction").textContent = rising ? "↑" : "↓";
      draw();
    });
    one("clear").addEventListener("click", () => {
      chosen.clear();
      one("filters").reset();
      rising = true;
      one("direction").textContent = "↑";
      draw();
    });
    one("filters").addEventListener("submit", (event) => event.preventDefault());
    one("more").addEventListener("click", () => { count += PAGE; fill(); });
  }

  function matches(run) {
    for (const [axis, value] of chosen) if (text(run[axis]) !== value) return false;
    const wanted = one("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const has = `${run.prompt} ${run.setting} ${run.status} ${run.seed}`.toLowerCase();
    return wanted.every((word) => has.includes(word));
  }

  function compare(a, b, name) {
    const [x, y] = [a[name], b[name]];
    const [no, nor] = [x === null || x === undefined, y === null || y === undefined];
    if (no || nor) return no - nor; // what was not measured comes last, whichever way round
    const order = typeof x === "string" || typeof y === "string" ? natural.compare(text(x), text(y)) : x - y;
    return rising ? order : -order;
  }

  function draw() {
    const name = one("sort").value;
    shown = data.runs.filter(matches).sort((a, b) => compare(a, b, name) || a.number - b.number);
    count = PAGE;
    one("grid").replaceChildren();
    fill();
  }

  function fill() {
    const grid = one("grid");
    grid.append(...shown.slice(grid.childElementCount, count).map(card));
    one("shown").textContent = shown.length === data.runs.length ? `${shown.length} runs` :
      `${shown.length} of ${data.runs.length} runs`;
    one("more").hidden = count >= shown.length;
    one("more").textContent = `Show more (${shown.length - count} left)`;
  }

  const HEADLINE = ["kind_right", "color_right", "janus", "iou", "ssim"];
  function card(run) {
    const figures = HEADLINE.filter((name) => run[name] !== null && run[name] !== undefined)
      .map((name) => make("span", {}, `${words(name)} ${number(run[name])}`));
    const shot = make("div", { class: "shot" }, poster(run));
    const element = make("a", { class: "card", href: `#run=${run.key}`, "data-run": run.key }, shot,
      make("div", { class: "text" }, make("b", {}, run.prompt || "(no prompt)"),
        make("small", {}, `${run.setting}${data.runs.length > 1 ? ` · seed ${run.seed}` : ""}`),
        run.status === "done" ? null : make("small", { class: "bad" }, run.status + (run.error ? `: ${run.error}` : "")),
        make("div", { class: "figures" }, figures)));
    let turning = null;
    const start = async () => {
      if (!run.moving || turning) return;
      const address = await file(run, run.moving.file);
      turning = run.moving.frames ? strip(address, run.moving.frames) : make("img", { src: address, alt: "" });
      shot.append(turning);
    };
    const stop = () => {
      if (turning) turning.remove();
      turning = null;
    };
    for (const name of ["pointerenter", "focus"]) element.addEventListener(name, start);
    for (const name of ["pointerleave", "blur"]) element.addEventListener(name, stop);
    return element;
  }

  function poster(run) {
    const address = run.poster && (data.pictures[run.poster] || `report/${run.poster}.webp`);
    const about = run.status === "done" ? "no picture" : run.status;
    return address ? make("img", { src: address, loading: "lazy", alt: run.prompt || "", width: 256, height: 256 })
      : make("div", { class: "none" }, about);
  }

  /** A strip of square views, one after the other. */
  function strip(address, frames) {
    const element = make("div", { class: "strip" });
    element.style.backgroundImage = `url("${address}")`;
    element.style.backgroundSize = `${frames * 100}% 100%`;
    if (!still && frames > 1) {
      const steps = [...Array(frames).keys()].map((k) => ({ backgroundPosition: `${100 * k / (frames - 1)}% 0` }));
      // Each view stays: positions jump from one to the next.
      element.animate(steps.flatMap((step, k) => [{ ...step, offset: k / frames }, { ...step, offset: (k + 1) / frames }]),
        { duration: frames * 220, iterations: Infinity, easing: "linear" });
    }
    return element;
  }

  // ---- leaderboard --------------------------------------------------------------------------------------------------

  let boardBy = null, boardRising = false;
  function board() {
    const rows = Object.entries(data.summary.settings);
    const names = [...new Set(rows.flatMap(([, row]) => Object.keys(row)))]
      .filter((name) => !["done", "runs"].includes(name) && rows.some(([, row]) => row[name]));
    const range = (name) => {
      const all = rows.map(([, row]) => row[name]).filter(Boolean);
      const low = Math.min(...all.map((e) => e.low)), high = Math.max(...all.map((e) => e.high));
      return [low, high > low ? high - low : 1];
    };
    if (boardBy) {
      const value = (row) => boardBy === "runs" ? row.done : row[boardBy] ? row[boardBy].value : null;
      rows.sort(([a, x], [b, y]) => {
        const [p, q] = boardBy === "setting" ? [a, b] : [value(x), value(y)];
        if (p === null || q === null) return (p === null) - (q === null);
        return (boardRising ? 1 : -1) * (typeof p === "string" ? natural.compare(p, q) : p - q);
      });
    }
    const heading = (name) => make("th", { scope: "col", "aria-sort": boardBy === name
      ? boardRising ? "ascending" : "descending" : "none" }, make("button", { type: "button", onclick: () => {
        boardRising = boardBy === name ? !boardRising : name === "setting";
        boardBy = name;
        board();
      } }, words(name) + (boardBy === name ? boardRising ? " ↑" : " ↓" : "")));
    const cell = (estimate, name) => {
      if (!estimate) return make("td", {}, "-");
      // One prompt, or equal ones, make no interval.
      if (estimate.low === estimate.high)
        return make("td", { title: `${estimate.count} runs` }, number(estimate.value));
      const [low, span] = range(name), bar = make("div", { class: "range" }, make("i"), make("b"));
      bar.firstChild.style.left = `${100 * (estimate.low - low) / span}%`;
      bar.firstChild.style.width = `${100 * (estimate.high - estimate.low) / span}%`;
      bar.lastChild.style.left = `${100 * (estimate.value - low) / span}%`;
      return make("td", { title: `${estimate.count} runs` }, number(estimate.value), " ",
        make("small", {}, `[${number(estimate.low)}, ${number(estimate.high)}]`), bar);
    };
    one("table").replaceChildren(
      make("thead", {}, make("tr", {}, ["setting", "runs", ...names].map(heading))),
      make("tbody", {}, rows.map(([setting, row]) => make("tr", {}, make("td", {}, setting),
        make("td", {}, `${row.done}/${row.runs}`), names.map((name) => cell(row[name], name))))));
  }

  function plots() {
    if (!data.plots.length) {
      one("plots").hidden = one("to-plots").hidden = true;
      return;
    }
    one("figures").append(...data.plots.map((address) => make("img", { src: address, loading: "lazy",
      alt: address.startsWith("data:") ? "plot" : decodeURIComponent(address) })));
  }

  // ---- one run ------------------------------------------------------------------------------------------------------

  const dialog = one("run");
  let open = null;

  function follow() {
    const key = location.hash.startsWith("#run=") ? location.hash.slice(5) : null;
    const run = key && data.runs.find((each) => each.key === key);
    if (run) show(run);
    else if (dialog.open) dialog.close();
  }

  function leave() {
    const key = open && open.key;
    open = null;
    one("run-body").replaceChildren();
    if (location.hash.startsWith("#run=")) history.replaceState(null, "", location.pathname + location.search + "#assets");
    const back = key && document.querySelector(`[data-run="${key}"]`);
    if (back) back.focus();
  }

  function step(by) {
    const place = shown.indexOf(open);
    const next = shown[(place + by + shown.length) % shown.length];
    if (next && next !== open) location.hash = `run=${next.key}`;
  }

  async function show(run) {
    open = run;
    one("run-title").textContent = run.prompt || "(no prompt)";
    const stage = make("div", { class: "stage" });
    const tabs = make("div", { class: "tabs" });
    const right = make("div");
    const below = make("div");
    one("run-body").replaceChildren(make("div", { class: "two" }, make("div", {}, stage, tabs), right), below);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    view(run, stage, tabs);
    const settings = ["setting", ...data.axes, "seed", "status"].filter((name, i, all) => all.indexOf(name) === i);
    const terms = [...settings, ...data.figures].filter((name) => run[name] !== null && run[name] !== undefined
      && run[name] !== "");
    right.append(make("dl", {}, terms.flatMap((name) => [make("dt", {}, words(name)), make("dd", {}, number(run[name]))])));
    if (run.error) right.append(make("p", { class: "bad" }, run.error));
    right.append(...neighbours(run));
    try {
      const about = await need(run.key);
      if (open === run) detail(run, about, below);
    } catch (error) {
      below.append(make("p", { class: "bad" }, error.message));
    }
  }

  /** Runs that differ from this one in one thing, and by how much their figures do. */
  function neighbours(run) {
    const keys = axes.map(({ axis }) => axis).filter((axis) => axis !== "status");
    const found = data.runs.map((other) => ({ other, by: keys.filter((key) => text(other[key]) !== text(run[key])) }))
      .filter(({ other, by }) => other !== run && by.length === 1).slice(0, 12);
    if (!found.length) return [];
    const change = (other) => HEADLINE.filter((name) => typeof run[name] === "number" && typeof other[name] === "number"
      && run[name] !== other[name]).map((name) => `${words(name)} ${number(run[name])} → ${number(other[name])}`).join(", ");
    return [make("h3", {}, "Differs in one thing from"), make("ul", { class: "neighbours" }, found.map(({ other, by }) =>
      make("li", {}, make("a", { href: `#run=${other.key}` }, `${words(by[0])} ${text(run[by[0]]) || "-"} → ` +
        `${text(other[by[0]]) || "-"}`), make("small", {}, ` ${change(other)}`))))];
  }

  function detail(run, about, place) {
    const folded = (title, content, opened) => content && content.length
      ? make("details", { open: opened }, make("summary", {}, title), make("pre", {}, content)) : null;
    if (about.verdict) place.append(make("p", {}, about.verdict));
    if (about.previews.length) {
      const film = make("div", { class: "film", tabindex: 0, "aria-label": "previews" });
      for (const name of about.previews) {
        const image = make("img", { loading: "lazy", alt: "" });
        file(run, name).then((address) => { image.src = address; });
        film.append(make("figure", {}, image, make("figcaption", {}, `step ${Number(name.match(/(\d+)\.png$/)[1])}`)));
      }
      place.append(make("h3", {}, "On the way"), film);
    }
    if (about.curves) {
      const holder = make("div", { class: "curves" });
      place.append(make("h3", {}, "Curves"), holder);
      viewer("uplot").then(() => draws(holder, about.curves)).catch((error) => holder.append(error.message));
    }
    if (about.changes.length) place.append(folded(`Changed while it ran (${about.changes.length})`, about.changes.join("\n"), true));
    place.append(make("h3", {}, "Files"), make("ul", { class: "files" }, about.files.map(({ name, bytes: size }) =>
      make("li", {}, make("a", { href: `${run.folder}/${encoded(name)}`, download: true }, name), ` `,
        make("small", {}, bytes(size))))));
    const facts = [about.prior && `prior ${about.prior}`, about.licence && `licence of the prior: ${about.licence}`];
    place.append(make("p", { class: "note" }, facts.filter(Boolean).join("; ")));
    for (const part of [folded("Notes and errors", about.notes.join("\n"), run.status === "failed"),
      folded("Configuration", about.config), folded("Record", about.record), folded("Citation (BibTeX)", about.citation)]) {
      if (part) place.append(part);
    }
  }

  function draws(holder, curves) {
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const [ink, line, accent] = dark ? ["#9aa1aa", "#32363d", "#7ab4ff"] : ["#62676e", "#e2e4e7", "#0b62c4"];
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line }, font: "11px system-ui" };
    for (const [name, y] of Object.entries(curves.series)) {
      const box = make("div");
      holder.append(box);
      new uPlot({ title: words(name), width: Math.max(box.clientWidth - 12, 180), height: 170, legend: { show: false },
        scales: { x: { time: false } }, axes: [axis, { ...axis, size: 54 }],
        series: [{}, { stroke: accent, width: 1.5, points: { show: false }, spanGaps: true }] }, [curves.x, y], box);
    }
  }

  // ---- 3D -----------------------------------------------------------------------------------------------------------

  async function view(run, stage, tabs) {
    const base = poster(run);
    stage.append(base);
    const say = (message) => stage.append(make("p", {}, message));
    if (!run.moving && run.status !== "done") return;
    let found;
    try {
      found = await need(`${run.key}-3d`);
    } catch (error) {
      say(error.message);
      return;
    }
    if (open !== run) return;
    const kinds = [];
    if (found.splat) kinds.push(["splats", () => splats(stage, found.splat)]);
    if (found.glb) kinds.push(["mesh", () => mesh(run, stage, found.glb)]);
    if (run.moving) {
      kinds.push(["turntable", async () => {
        const address = await file(run, run.moving.file);
        stage.replaceChildren(run.moving.frames ? strip(address, run.moving.frames) : make("img", { src: address, alt: "" }));
      }]);
    }
    const pick = async (index) => {
      [...tabs.children].forEach((tab, i) => tab.setAttribute("aria-pressed", String(i === index)));
      stage.dispatchEvent(new Event("left"));
      try {
        await kinds[index][1]();
      } catch (error) {
        stage.replaceChildren(base);
        say(`no 3D view here: ${error.message}`);
      }
    };
    tabs.append(...kinds.map(([name], index) => make("button", { type: "button", onclick: () => pick(index) }, name)));
    if (kinds.length) await pick(0);
    for (const note of found.notes) say(note);
  }

  async function mesh(run, stage, base64) {
    await viewer("model-viewer");
    const address = URL.createObjectURL(new Blob([binary(base64)], { type: "model/gltf-binary" }));
    const element = make("model-viewer", { "camera-controls": true, "auto-rotate": !still, alt: run.prompt || "asset",
      "shadow-intensity": "0.6", "interaction-prompt": "none", "camera-orbit": "25deg 75deg auto", "touch-action": "pan-y" });
    element.addEventListener("load", () => element.setAttribute("data-drawn", ""));
    element.src = address;
    stage.replaceChildren(element);
    stage.addEventListener("left", () => URL.revokeObjectURL(address), { once: true });
  }

  async function splats(stage, base64) {
    await viewer("gsplat");
    const canvas = make("canvas", { tabindex: 0, "aria-label": "3D view of the splats" });
    stage.replaceChildren(canvas);
    const renderer = new SPLAT.WebGLRenderer(canvas);
    renderer.backgroundColor = new SPLAT.Color32(255, 255, 255, 255);
    const scene = new SPLAT.Scene(), camera = new SPLAT.Camera();
    const controls = new SPLAT.OrbitControls(camera, canvas, 0.4, -0.25, 2.2, false);
    const object = new SPLAT.Splat(SPLAT.SplatData.Deserialize(binary(base64)));
    scene.addObject(object);
    let alive = true;
    const frame = () => {
      if (!alive || !canvas.isConnected) {
        controls.dispose();
        renderer.dispose();
        return;
      }
      const size = stage.getBoundingClientRect();
      if (canvas.width !== Math.round(size.width) || canvas.height !== Math.round(size.height)) {
        renderer.setSize(Math.round(size.width), Math.round(size.height));
      }
      controls.update();
      renderer.render(scene, camera);
      canvas.setAttribute("data-drawn", "");
      requestAnimationFrame(frame);
    };
    stage.addEventListener("left", () => { alive = false; }, { once: true });
    requestAnimationFrame(frame);
  }

  // ---- keys ---------------------------------------------------------------------------------------------------------

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const at = event.target;
    if (dialog.open) {
      const busy = at.closest && at.closest("model-viewer, canvas, .film, pre");
      if (!busy && (event.key === "ArrowLeft" || event.key === "ArrowRight")) step(event.key === "ArrowLeft" ? -1 : 1);
      return;
    }
    if (event.key === "/" && !/^(INPUT|SELECT)$/.test(at.tagName)) {
      event.preventDefault();
      one("search").focus();
      return;
    }
    const current = at.closest && at.closest(".card");
    if (!current) return;
    const cards = [...one("grid").children], columns = cards.filter((c) => c.offsetTop === cards[0].offsetTop).length;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    const target = by && cards[cards.indexOf(current) + by];
    if (target) {
      event.preventDefault();
      target.focus();
    }
  });
  dialog.addEventListener("close", leave);
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  one("close").addEventListener("click", () => dialog.close());
  one("previous").addEventListener("click", () => step(-1));
  one("next").addEventListener("click", () => step(1));
  addEventListener("hashchange", follow);

  setUp();
  draw();
  board();
  plots();
  follow();
})();
