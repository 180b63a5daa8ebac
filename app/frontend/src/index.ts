// Entry of the Streamlit component. A map that has been made once is kept, also while another page is open.
import leaflet from "leaflet/dist/leaflet.css";
import geoman from "@geoman-io/leaflet-geoman-free/dist/leaflet-geoman.css";
import own from "./style.css";
import { MapView } from "./map.ts";
import type { Data } from "./types.ts";

interface Component {
  data: Data;
  parentElement: HTMLElement | ShadowRoot;
  setStateValue: (name: string, value: unknown) => void;
  setTriggerValue: (name: string, value: unknown) => void;
}

const views = new Map<string, MapView>();
const TRIGGERS = new Set(["clicked", "picked"]);

export default function component({ data, parentElement, setStateValue, setTriggerValue }: Component): void {
  let view = views.get(data.map);
  if (!view) {
    view = new MapView();
    views.set(data.map, view);
    const made = Number(document.documentElement.dataset.geodinoMaps ?? 0);
    document.documentElement.dataset.geodinoMaps = String(made + 1);
  }
  if (!parentElement.querySelector("style.gd-style")) {
    const style = document.createElement("style");
    style.className = "gd-style";
    style.textContent = leaflet + geoman + own;
    parentElement.append(style);
  }
  if (view.root.parentNode !== parentElement) parentElement.append(view.root);
  view.update(data, (name, value) => (TRIGGERS.has(name) ? setTriggerValue(name, value) : setStateValue(name, value)));
}
