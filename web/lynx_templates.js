// The template browser shows a pack's workflows in the order in which the server's folder lists them. This puts those of
// this pack into the order in which an artist meets them; what is not named here comes last.
import { api } from "../../scripts/api.js";

const ORDER = [
  "Try-Lynx",
  "Photo-to-video",
  "Photo-to-video-fast",
  "Photo-to-video-lite",
  "Two-people",
  "One-person-becomes-another",
  "Refine-a-distant-face",
  "Long-take",
  "Motion-of-another-video",
  "Scene-or-outfit",
  "Compare-strengths",
  "Wan-2.2",
  "Wan-2.2-animate-a-picture",
];

const rank = (name) => (ORDER.indexOf(name) + ORDER.length + 1) % (ORDER.length + 1);
const ask = api.getWorkflowTemplates;

api.getWorkflowTemplates = async function (...args) {
  const templates = await ask.apply(this, args);
  for (const names of Object.values(templates ?? {})) {
    if (Array.isArray(names) && names.includes(ORDER[0])) names.sort((a, b) => rank(a) - rank(b));
  }
  return templates;
};
